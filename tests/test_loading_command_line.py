"""Tests of the scripts' command lines: help and mistakes are answered without PyTorch, in words that were typed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
from replay import ROOT

from loading.arguments import ModelArguments, SamplingArguments, ServingArguments, parse_arguments
from loading.checkpoint import LoadError
from loading.command_line import Text, break_lines, choose_language, flag, text_width

SCRIPTS = ("cli_demo.py", "web_demo.py", "web_demo2.py", "api.py", "serve_ray.py", "quantize.py")
SCRIPTS += ("ptuning/web_demo.py", "ptuning/export.py", "ptuning/evaluate_benchmarks.py")
# Importing any of these takes most of a second, or several.
HEAVY = ("torch", "transformers", "gradio", "streamlit", "fastapi", "ray", "accelerate", "huggingface_hub")


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in a process in which heavy imports fail."""
    code = f"import sys, runpy\nfor name in {HEAVY!r}:\n    sys.modules[name] = None\n"
    code += f"sys.argv = {[str(ROOT / script), *words]!r}\nsys.path[0] = {str((ROOT / script).parent)!r}\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    locale = {"LC_ALL": "C.UTF-8", "COLUMNS": "80"} | environment
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", env=os.environ | locale
    )


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_is_printed_without_pytorch(script, language):
    done = run(script, "--help", LC_ALL="zh_CN.UTF-8" if language == "zh" else "C.UTF-8", PYTHONUTF8="1")
    assert done.returncode == 0 and done.stderr == ""
    assert str(ROOT) not in done.stdout and "None" not in done.stdout
    assert (
        re.search("[\u4e00-\u9fff]", done.stdout.replace("你好", "")) if language == "zh" else "usage: " in done.stdout
    )
    flags = re.findall(r"^  (--[\w-]+(?:, --[\w-]+)*)", done.stdout, re.M)
    listed = [name for names in flags for name in names.split(", ")]
    assert len(listed) == len(set(listed)) and not [name for name in listed if "_" in name]
    assert max(map(text_width, done.stdout.splitlines())) <= 122


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("cli_demo.py", ["--quantize", "3"], "--quantize must be 4 or 8, got 3"),
        ("cli_demo.py", ["--quantization_bit", "3"], "--quantization_bit must be 4 or 8, got 3"),
        (
            "cli_demo.py",
            ["--tempreature", "1"],
            "unrecognized arguments: --tempreature 1 (did you mean --temperature?)",
        ),
        ("cli_demo.py", ["--model", "/no/such/folder"], "/no/such/folder: no such folder"),
        ("cli_demo.py", ["--ptuning-checkpoint", "/no/such"], "--ptuning-checkpoint /no/such: no such folder"),
        ("cli_demo.py", ["--max_length", "many"], "argument --max_length: invalid int value: 'many'"),
        ("web_demo.py", ["--model", "/no/such/folder"], "/no/such/folder: no such folder"),
        ("web_demo2.py", ["--lang", "fr"], "argument --lang: invalid choice: 'fr'"),
        ("api.py", ["--drain_seconds=-1"], "--drain_seconds must be at least 0, got -1.0"),
        ("quantize.py", ["a", "b", "--bits", "3"], "--bits must be 4 or 8, got 3"),
        ("quantize.py", ["/no/such/folder", "b"], "/no/such/folder: no such folder"),
        ("ptuning/export.py", [], "--export-dir must name a new folder"),
        ("ptuning/evaluate_benchmarks.py", [], "--tasks ceval-valid or --mmcu FOLDER"),
    ],
)
def test_mistakes_are_answered_without_pytorch(script, words, message):
    done = run(script, *words)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_port_in_use_is_told_before_a_model_is_loaded():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        for script in ("api.py", "web_demo.py", "web_demo2.py"):
            done = run(script, "--port", str(port))
            assert done.returncode == 2 and f"cannot listen at 127.0.0.1:{port}" in done.stderr, done.stderr
            assert "--port" in done.stderr and len(done.stderr.splitlines()) == 1
    ServingArguments(port=port).check_address()
    ServingArguments(port=0).check_address()
    with pytest.raises(LoadError, match="cannot listen at no.such.host.invalid:8000"):
        ServingArguments(host="no.such.host.invalid").check_address()


def test_parse_arguments_reads_every_kind_of_field():
    @dataclass
    class Kinds:
        title = Text("kinds", "种类")
        place: str = flag(__import__("dataclasses").MISSING, Text("where"))
        number: int | None = flag(None, Text("how many"), "--count")
        switch: bool = flag(False, Text("whether"))

    (found,) = parse_arguments("", Kinds, arguments=["here", "--count", "3", "--switch"])
    assert (found.place, found.number, found.switch) == ("here", 3, True)
    (found,) = parse_arguments("", Kinds, arguments=["--number=4", "there"])
    assert (found.place, found.number, found.switch) == ("there", 4, False)


def test_choose_language_follows_the_flag_then_the_locale(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert choose_language() == "zh" and choose_language(["--lang", "en"]) == choose_language(["--lang=en"]) == "en"
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    assert choose_language() == choose_language(["--lang", "auto"]) == choose_language(["--lang"]) == "en"


def test_every_flag_has_a_chinese_text():
    for cls in (ModelArguments, SamplingArguments, ServingArguments):
        for field in fields(cls):
            assert re.search("[\u4e00-\u9fff]", field.metadata["help"].zh), field.name


def test_break_lines_counts_wide_characters_twice():
    lines = break_lines("大于 1 时，出现过的 token 更少重复；大于 0，至多 10", 20)
    assert all(text_width(line) <= 20 for line in lines) and not [line for line in lines if line[0] in "，；"]
    assert "".join(lines).replace(" ", "") == "大于1时，出现过的token更少重复；大于0，至多10"
