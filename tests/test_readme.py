"""Tests of every Markdown file of the project: commands, flags, links and code that it names exist and run."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import warm
from transformers import HfArgumentParser

import quantize
import serve_ray
from loading.arguments import ModelArguments, SamplingArguments
from loading.command_line import build_parser
from loading.load import load_model_and_tokenizer
from pages.arguments import PageArguments, StreamlitArguments, TerminalArguments
from ptuning import arguments as training
from ptuning import evaluate_benchmarks, export, original_flags
from server import app as api
from server.arguments import ServerArguments

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (".", "docs", "ptuning", "examples", "resources/**", "tests/**")
MARKDOWN = sorted({file for folder in FOLDERS for file in ROOT.glob(f"{folder}/*.md")})
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]
API = ROOT / "docs" / "api.md"
PAIRS = [
    (file.with_name(f"{file.stem.removesuffix('_zh')}.md"), file) for file in MARKDOWN if file.stem.endswith("_zh")
]
MOST_WORDS = 2000  # of each README

PAGE = (ModelArguments, SamplingArguments, PageArguments)
ARGUMENTS = {
    "cli_demo.py": (ModelArguments, SamplingArguments, TerminalArguments),
    "api.py": (ModelArguments, SamplingArguments, ServerArguments),
    "serve_ray.py": (ModelArguments, SamplingArguments, ServerArguments, serve_ray.ReplicaArguments),
    "web_demo.py": PAGE,
    "web_demo2.py": (ModelArguments, SamplingArguments, StreamlitArguments),
    "quantize.py": (quantize.QuantizeArguments,),
    "ptuning/web_demo.py": PAGE,
    "ptuning/export.py": (ModelArguments, export.ExportArguments),
    "ptuning/evaluate_benchmarks.py": (ModelArguments, evaluate_benchmarks.BenchmarkArguments),
}
OTHERS = {"echo", ".", "curl", "brew", "apt", "docker", "pip"}  # what else is on a command line
IMAGE = "chatglm-6b"  # what docs/deployment.md calls the image of the Dockerfile
ENGLISH = [file for file in MARKDOWN if not file.stem.endswith("_zh")]


def name_of(file: Path | tuple) -> str:
    return (file if isinstance(file, Path) else file[0]).relative_to(ROOT).as_posix()


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def blocks(file: Path, language: str) -> list[str]:
    """Return the code blocks of a language; those of none are the language ""."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", read(file), re.M | re.S)
    return [block for name, block in found if name == language]


def prose(file: Path) -> str:
    """Return a file without its code blocks."""
    return re.sub(r"^```.*?^```$", "", read(file), flags=re.M | re.S)


def commands(file: Path) -> list[str]:
    """Return every command that a file names, in blocks and in tables or sentences."""
    lines = "".join(blocks(file, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:\w+=\S+ )*(?:python3?|pip|bash|torchrun|brew) [^`]+)`", prose(file))
    lines += [line for line in "".join(blocks(file, "")).splitlines() if line.startswith("python ")]
    return [part.strip() for line in lines for part in re.split(r"&&|\|", line) if part.strip()]


@functools.cache
def training_parser() -> HfArgumentParser:
    types = training.ModelArguments, training.DataArguments, training.TrainingArguments
    return HfArgumentParser(types, allow_abbrev=False)


def source_flags(source: str) -> set[str]:
    """Return the flags of a script with a parser of its own, which may also make one of each field of a dataclass."""
    flags = set(re.findall(r"add_argument\(\s*\"--([\w-]+)\"", source))
    if "fields(" in source:
        flags |= {name.replace("_", "-") for name in re.findall(r"^    (\w+): ", source, re.M)}
    return {flag.replace("_", "-") for flag in flags}


def check_script(script: str, words: list[str]) -> None:
    """Parse a script's words; ends with SystemExit or fails where a flag does not exist."""
    path = ROOT / script
    assert path.is_file(), script
    if script in ("ptuning/main.py", "ptuning/train_preferences.py"):  # the second has trl's flags, too
        words = [
            re.sub(r"^--[^=]+", lambda flag: flag[0].replace("-", "_").replace("__", "--", 1), word) for word in words
        ]
        training_parser().parse_args(original_flags.translate(words))
    elif script in ARGUMENTS:
        build_parser("", ARGUMENTS[script], "en").parse_args([dashed(word) for word in words])
    else:
        named = {word[2:].partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
        assert named <= source_flags(read(path)), f"{script}: {named}"


def dashed(word: str) -> str:
    """Return a flag as `parse_arguments` hands it to the parser."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        check_script(words[0], words[1:])
    elif words[1] == "pytest":
        for word in words[2:]:
            assert word.startswith("-") or (ROOT / word).is_file(), word
    else:
        specification = importlib.util.find_spec(words[1])
        assert specification is not None, words[1]
        if ROOT in Path(specification.origin or "/").parents:
            check_script(Path(specification.origin).relative_to(ROOT).as_posix(), words[2:])


def check_pip(words: list[str]) -> None:
    assert words[0] == "install", words
    if "-r" in words:
        assert words[1] == "-r" and (ROOT / words[2]).is_file(), words


def check_shell_script(words: list[str], settings: list[str]) -> None:
    """The script exists, reads each variable that is set, and the flags behind it are the trainer's or the page's."""
    source = read(ROOT / words[0])
    for setting in settings:
        assert f"${{{setting.partition('=')[0]}:" in source, f"{words[0]} does not read {setting}"
    if words[1:]:
        check_script("ptuning/web_demo.py" if "web_demo" in words[0] else "ptuning/main.py", words[1:])


def check_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    settings = []
    while re.match(r"\w+=", words[0]):
        settings.append(words.pop(0))
    program, *words = words
    if program == "torchrun":
        start = next(number for number, word in enumerate(words) if word.endswith(".py"))
        check_script(words[start], words[start + 1 :])
    elif program == "bash":
        check_shell_script(words, settings)
    elif program == "docker":
        assert (ROOT / "Dockerfile").is_file()
        if words[0] == "run":
            check_script("api.py", words[words.index(IMAGE) + 1 :])
    elif program.startswith("python"):
        check_python(words)
    elif program == "pip":
        check_pip(words)
    else:
        assert program in OTHERS, command


@pytest.mark.parametrize("file", MARKDOWN, ids=name_of)
def test_commands_exist(file, capsys):
    for command in commands(file):
        try:
            check_command(command)
        except SystemExit as end:
            assert end.code == 0, f"{command}\n{capsys.readouterr().err}"  # --help ends with 0


def test_commands_are_found():
    """The test before looks at commands: each kind is somewhere."""
    found = [command for file in MARKDOWN for command in commands(file)]
    for beginning in (
        "python cli_demo.py",
        "python ptuning/main.py",
        "python -m tests",
        "GPUS=4 bash",
        "docker run",
        "pip",
    ):
        assert any(command.startswith(beginning) for command in found), beginning


@functools.cache
def script_flags() -> set[str]:
    """Return the flags of the scripts, aliases included, without the trainer's and the benchmarks'."""
    return {flag for arguments in ARGUMENTS.values() for flag in build_parser("", arguments, "en").flags}


@functools.cache
def all_flags() -> set[str]:
    flags = {dashed(flag) for flag in training_parser()._option_string_actions}
    taken = {name for pair in original_flags.RENAMED for name in pair} | set(original_flags.OUTDATED)
    taken |= {"group_by_length", "logging_dir", "dataset_name"}  # translated or refused one by one
    flags |= {f"--{name.replace('_', '-')}" for name in taken}
    for folder in ("tests/benchmarks", "resources", "resources/chatglm_mini", "examples"):
        for script in (ROOT / folder).glob("*.py"):
            flags |= {f"--{flag}" for flag in source_flags(read(script))}
    return flags | script_flags()


@pytest.mark.parametrize("file", MARKDOWN, ids=name_of)
def test_flags_are_those_of_a_program(file):
    """Flags that sentences and tables name, apart from commands, which `test_commands_exist` parses."""
    quoted = re.findall(r"`(--[^`]*)`", prose(file))
    named = {dashed(flag) for words in quoted for flag in re.findall(r"--[a-z][\w-]*", words)}
    assert named <= all_flags()


@pytest.mark.parametrize("language", ["", "_zh"])
def test_every_flag_of_the_scripts_is_described(language):
    files = [ROOT / "docs" / f"{name}{language}.md" for name in ("api", "deployment", "quantisation")]
    files.append(ROOT / "ptuning" / f"README{language}.md")
    named = {dashed(flag) for file in files for flag in re.findall(r"--[a-z][\w-]+", read(file))}
    assert script_flags() - {"--help"} <= named


@pytest.mark.parametrize("file", [API, API.with_name("api_zh.md")], ids=name_of)
def test_defaults_are_those_of_the_program(file):
    text, sampling = read(file), SamplingArguments()
    assert re.search(rf"`--max-length`.*[(（]{sampling.max_length}[)）]", text)
    assert re.search(rf"`--temperature`.*[(（]{sampling.top_p}[,、] ?{sampling.temperature}[)）]", text)
    assert re.search(rf"`--top-k`.*[(（]{sampling.top_k}\D", text)


def headings(file: Path) -> set[str]:
    """Return the anchors of a file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(file), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", MARKDOWN, ids=name_of)
def test_links_exist(file):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(file)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{link}: there is no {path}"
        if anchor:
            assert anchor in headings(target), f"{link}: no such heading"


@pytest.mark.parametrize("file", MARKDOWN, ids=name_of)
def test_named_files_exist(file):
    folders = "chatglm|loading|resources|server|engine|tests|examples|ptuning|pages|docs"
    names = re.findall(rf"`((?:{folders})/[\w/]*(?:\.\w+|/)?)`", read(file))
    names += re.findall(r"`(\w+\.py)`", read(file)) if file.parent == ROOT else []
    for name in names:
        assert (ROOT / name).exists() or (file.parent / name).exists(), name


@pytest.mark.parametrize("file", READMES, ids=name_of)
def test_tree_is_the_projects(file):
    """The file tree names what is there: every module of the model, and every program."""
    tree = next(block for block in blocks(file, "text") if block.startswith("cli_demo.py"))
    folder, names = "", []
    for line in tree.splitlines():
        listed = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.startswith(" "):
            folder = listed[0] if listed[0].endswith("/") else ""
        names += listed if not line.startswith(" ") else [folder + name for name in listed]
    for name in names:
        assert (ROOT / name).exists(), name
    programs = {script.name for script in ROOT.glob("*.py")}
    model = {f"chatglm/{module.name}" for module in (ROOT / "chatglm").glob("*.py")} - {"chatglm/__init__.py"}
    assert programs | model <= set(names)


@pytest.mark.parametrize("file", READMES, ids=name_of)
def test_readme_is_short(file):
    assert len(read(file).split()) < MOST_WORDS


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_both_languages_say_the_same(pair):
    """The same commands, Python code, figures in tables, and number of headings, in the same order."""
    for language in ("bash", "python", "json", "bibtex", "nginx"):
        assert blocks(pair[0], language) == blocks(pair[1], language)
    english, chinese = (read(file) for file in pair)
    for pattern in (r"^#+ ", r"^\|", r"^```", r"^- "):
        assert len(re.findall(pattern, english, re.M)) == len(re.findall(pattern, chinese, re.M)), pattern
    rows = [re.findall(r"^\|.*", text, re.M) for text in (english, chinese)]
    for row, translated in zip(*rows, strict=True):
        assert sorted(re.findall(r"\d[\d.,]*\d|\d", row)) == sorted(re.findall(r"\d[\d.,]*\d|\d", translated)), row


@pytest.mark.parametrize("file", ENGLISH, ids=name_of)
def test_python_code_compiles(file):
    for code in blocks(file, "python"):
        ast.parse(code)


@pytest.mark.parametrize("file", [READMES[0], API], ids=name_of)
def test_python_code_runs(file):
    """A file's first piece of code runs as it stands, in a new process, from the repository's folder."""
    if not (ROOT / "chatglm" / "model.safetensors").exists():
        pytest.skip("no embedded checkpoint in chatglm/")
    code = blocks(file, "python")[0]
    done = subprocess.run([*warm.python(), "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "演示模型" in done.stdout  # the greeting of the embedded checkpoint


def test_names_of_python_code_for_gpus_exist():
    """What the README imports for the real model is there; the code itself needs a GPU and a download."""
    imports = [line for line in blocks(READMES[0], "python")[1].splitlines() if re.match(r"import|from", line)]
    exec("\n".join(imports), {})


def test_expected_reply_is_the_embedded_checkpoints():
    """The reply that the README promises for the first command is the likeliest answer."""
    if not (ROOT / "chatglm" / "model.safetensors").exists():
        pytest.skip("no embedded checkpoint in chatglm/")
    transcript = blocks(READMES[0], "text")[0]
    question, reply = re.fullmatch(r"用户：(.*)\n\nChatGLM-6B：(.*)\n", transcript).groups()
    model, tokenizer = load_model_and_tokenizer(ModelArguments(device="cpu"))
    assert model.chat(tokenizer, question, temperature=0)[0] == reply


@pytest.mark.parametrize("file", [*READMES, API], ids=name_of)
def test_expected_reply_of_the_server_is_that_of_the_terminal(file):
    reply = re.search(r"ChatGLM-6B：(.*)\n", read(READMES[0]))[1]
    body = json.loads(blocks(file, "json")[0])
    assert body["response"] == reply and body["history"] == [["你好", reply]]


def test_dockerfile_runs_the_server_and_asks_whether_it_is_well():
    text = read(ROOT / "Dockerfile")
    (entry,) = (json.loads(found) for found in re.findall(r"^ENTRYPOINT (.*)$", text, re.M))
    assert entry[:2] == ["python", "api.py"]
    build_parser("", ARGUMENTS["api.py"], "en").parse_args(entry[2:])
    code = json.loads(re.search(r"HEALTHCHECK .*\\\n\s*CMD (.*)$", text, re.M)[1])[2]
    ast.parse(code)
    assert "/health" in code and re.search(r"^USER (?!root)", text, re.M)
    kept = {line[1:] for line in read(ROOT / ".dockerignore").splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {"api.py", "requirements.txt", "chatglm", "engine", "loading", "server"} <= kept


def test_requests_to_the_server_run(tmp_path, monkeypatch):
    """The curl commands and the Python code of the clients, as they stand, on a server at another address."""
    from serving import serving, write_lively_checkpoint

    from chatglm import ChatGLMTokenizer
    from engine import Engine

    for package in ("openai", "langchain_community", "langchain_openai"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    curls = {command for file in ENGLISH for command in commands(file) if command.startswith("curl")}
    programs = [code for code in blocks(API, "python") if "127.0.0.1:8000" in code]
    assert len(curls) > 5 and len(programs) > 1
    engine = Engine(write_lively_checkpoint(tmp_path), ChatGLMTokenizer.from_pretrained(tmp_path))
    app = api.build_app(engine, sampling=SamplingArguments(max_new_tokens=4))
    try:
        with serving(app) as address:
            for command in sorted(curls):
                words = shlex.split(command.replace("http://127.0.0.1:8000", address))
                if shutil.which("curl"):
                    shown = subprocess.run([*words, "-sf"], capture_output=True, encoding="utf-8", check=True).stdout
                    assert shown.startswith(("{", "data: {")) and '"error"' not in shown, command
            for code in programs:
                changed = code.replace("http://127.0.0.1:8000", address)
                done = subprocess.run([*warm.python(), "-c", changed], capture_output=True, encoding="utf-8", cwd=ROOT)
                assert done.returncode == 0 and done.stdout.strip(), done.stderr
    finally:
        engine.close()
