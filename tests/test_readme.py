"""Tests of README.md and README_zh.md: the commands, flags, files and code that they name exist and run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import quantize
from loading.arguments import ModelArguments, SamplingArguments, parse_arguments
from loading.command_line import build_parser
from loading.load import load_model_and_tokenizer
from pages.arguments import PageArguments, TerminalArguments
from server import app as api
from server.arguments import ServerArguments

ROOT = Path(__file__).resolve().parent.parent
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]
PAGE = (ModelArguments, SamplingArguments, PageArguments)
ARGUMENTS = {
    "cli_demo.py": (ModelArguments, SamplingArguments, TerminalArguments),
    "api.py": (ModelArguments, SamplingArguments, ServerArguments),
    "web_demo.py": PAGE,
    "web_demo2.py": PAGE[:2],
    "ptuning/web_demo.py": PAGE,
    "resources/make_web_pictures.py": (),
}

# scripts whose arguments have names and places of their own
PARSERS = {"quantize.py": build_parser("", [quantize.QuantizeArguments], "en")}


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.M | re.S)


def commands(readme: Path) -> list[str]:
    """Return every command that a README names, in blocks and in tables."""
    lines = "".join(blocks(readme, "bash")).splitlines()
    lines += re.findall(r"`((?:python3?|pip) [^`]+)`", readme.read_text(encoding="utf-8"))
    return [part.strip() for line in lines for part in re.split(r"&&|\|", line)]


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_commands_exist(readme):
    scripts = 0
    for command in commands(readme):
        program, *words = shlex.split(command, comments=True)
        if program.startswith("python") and words[0] == "-m":
            assert importlib.util.find_spec(words[1]) is not None, command
        elif program.startswith("python") and words[0] in PARSERS:
            PARSERS[words[0]].parse_args(words[1:])  # exits where a flag does not exist
        elif program.startswith("python"):
            assert (ROOT / words[0]).is_file(), command
            parse_arguments("", *ARGUMENTS[words[0]], arguments=words[1:])  # exits where a flag does not exist
            scripts += 1
        elif program == "pip":
            assert words[:2] == ["install", "-r"] and (ROOT / words[2]).is_file(), command
        else:
            assert program in ("echo", ".", "curl"), command
    assert scripts > 5


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_flags_are_those_of_the_program(readme):
    """The READMEs name every flag of every script that they list, and no flag that there is not."""
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]+)", readme.read_text(encoding="utf-8"))}
    dataclasses = [dataclass for arguments in ARGUMENTS.values() for dataclass in arguments]
    existing = {field.name for dataclass in dataclasses for field in fields(dataclass)}
    existing |= vars(PARSERS["quantize.py"].parse_args(["source", "target"])).keys() - {"source", "target"}
    assert named == existing | {"model", "quantize"}


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_defaults_are_those_of_the_program(readme):
    text, sampling = readme.read_text(encoding="utf-8"), SamplingArguments()
    assert re.search(rf"`--max-length`.*[(（]{sampling.max_length}[)）]", text)
    assert re.search(rf"`--temperature`.*[(（]{sampling.top_p}[,、] ?{sampling.temperature}[)）]", text)


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_named_files_exist(readme):
    text = readme.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    tree = next(block for block in blocks(readme, "text") if block.startswith("cli_demo.py"))
    folder, names = "", []
    for line in tree.splitlines():
        listed = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.startswith(" "):
            folder = listed[0] if listed[0].endswith("/") else ""
            names += listed
        else:
            names += [folder + name for name in listed if name != "…"]
    places = (
        r"chatglm|loading|resources|server|engine|tests|examples|ptuning|pages|\w+_demo2?|utils|quantize|api|serve_ray"
    )
    quoted = re.findall(rf"`((?:{places})[\w/]*(?:\.py|/))`", text)
    for name in [*links, *names, *quoted]:
        assert (ROOT / name).exists(), name
    for module in (ROOT / "chatglm").glob("*.py"):
        assert module.name in tree or module.name == "__init__.py", f"{module.name} is not in the tree"


def test_both_languages_say_the_same():
    """The same commands, Python code, links and number of table rows in the same order."""
    english, chinese = READMES
    for language in ("bash", "python"):
        assert blocks(english, language) == blocks(chinese, language)
    texts = [readme.read_text(encoding="utf-8") for readme in READMES]
    for pattern in (r"^#+ ", r"^\|", r"^```", r"THUDM/[\w-]+"):
        assert len(re.findall(pattern, texts[0], re.M)) == len(re.findall(pattern, texts[1], re.M)), pattern


@pytest.mark.parametrize("number", [0, 1])
def test_python_code_runs(number, tmp_path):
    """The code runs as it stands, in a new process, from the repository's folder."""
    if not (ROOT / "chatglm" / "model.safetensors").exists():
        pytest.skip("no embedded checkpoint in chatglm/")
    code = blocks(READMES[0], "python")[number]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if "print" in code:
        assert "演示模型" in done.stdout  # the greeting of the embedded checkpoint


def test_expected_reply_is_the_embedded_checkpoints():
    """The reply that the README promises for the first command is the likeliest answer."""
    if not (ROOT / "chatglm" / "model.safetensors").exists():
        pytest.skip("no embedded checkpoint in chatglm/")
    transcript = blocks(READMES[0], "text")[0]
    question, reply = re.fullmatch(r"用户：(.*)\n\nChatGLM-6B：(.*)\n", transcript).groups()
    model, tokenizer = load_model_and_tokenizer(ModelArguments(device="cpu"))
    assert model.chat(tokenizer, question, temperature=0)[0] == reply


def test_expected_reply_of_the_server_is_that_of_the_terminal():
    for readme in READMES:
        reply = re.search(r"ChatGLM-6B：(.*)\n", readme.read_text(encoding="utf-8"))[1]
        (body,) = map(json.loads, blocks(readme, "json"))
        assert body["response"] == reply and body["history"] == [["你好", reply]]


def test_requests_to_the_server_run(tmp_path, monkeypatch):
    """The curl commands and the Python code of the clients, as they stand, on a server at another address."""
    from serving import serving, write_lively_checkpoint

    from chatglm import ChatGLMTokenizer
    from engine import Engine

    for package in ("openai", "langchain_community", "langchain_openai"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    curls = [command for command in commands(READMES[0]) if command.startswith("curl")]
    programs = [code for code in blocks(READMES[0], "python") if "127.0.0.1:8000" in code]
    assert len(curls) > 5 and len(programs) > 1
    engine = Engine(write_lively_checkpoint(tmp_path), ChatGLMTokenizer.from_pretrained(tmp_path))
    app = api.build_app(engine, sampling=SamplingArguments(max_new_tokens=4))
    try:
        with serving(app) as address:
            for command in curls:
                words = shlex.split(command.replace("http://127.0.0.1:8000", address))
                if shutil.which("curl"):
                    shown = subprocess.run([*words, "-sf"], capture_output=True, encoding="utf-8", check=True).stdout
                    assert shown.startswith(("{", "data: {")) and '"error"' not in shown, command
            for code in programs:
                changed = code.replace("http://127.0.0.1:8000", address)
                done = subprocess.run([sys.executable, "-c", changed], capture_output=True, encoding="utf-8", cwd=ROOT)
                assert done.returncode == 0 and done.stdout.strip(), done.stderr
    finally:
        engine.close()
