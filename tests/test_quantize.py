"""quantize.py, the script: a checkpoint that loads comes out, and everything that is wrong is one line and status 2."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from replay import change_json, write_small_checkpoint

import quantize
from chatglm import ChatGLMTokenizer
from loading import conversion
from loading.arguments import ModelArguments, run_main
from loading.load import load_model_and_tokenizer


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "checkpoint"
    write_small_checkpoint(folder)
    return folder


@pytest.fixture
def source(small_checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "source"))


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Run the script; return its exit status and what it wrote to both streams."""
    monkeypatch.setattr(sys, "argv", ["quantize.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_main(quantize.main)
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("flags", [[], ["--bits", "8"], ["--quantize-embeddings"], ["--calibration-tokens", "9"]])
def test_converted_checkpoint_chats(source, tmp_path, monkeypatch, capsys, flags):
    if "--calibration-tokens" in flags:
        lines = [json.dumps({"prompt": text, "response": "hello"}) for text in ("今天", "你好", "a")]
        (tmp_path / "dialogues.jsonl").write_text("\n".join(lines), encoding="utf-8")
        flags = [*flags, "--calibration", tmp_path / "dialogues.jsonl", "--device", "cpu"]
    status, out, err = run(monkeypatch, capsys, source, tmp_path / "target", *flags)
    bits = 8 if "8" in flags else 4
    assert status in (0, None) and f"MB of weights, {bits} bits" in out
    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(tmp_path / "target"), device="cpu"))
    assert isinstance(tokenizer, ChatGLMTokenizer)
    assert model.config.quantization_bit == bits
    assert model.config.quantization_embeddings == ("--quantize-embeddings" in flags)
    answer, _ = model.chat(tokenizer, "今天", do_sample=False, max_length=24)
    float_model, _ = load_model_and_tokenizer(ModelArguments(str(source), device="cpu"))
    expected, _ = float_model.quantize(bits).chat(tokenizer, "今天", do_sample=False, max_length=24)
    if not flags or "8" in flags:
        assert answer == expected


def take_the_target(source, target):
    target.mkdir()


def be_quantised(source, target):
    change_json(source / "config.json", quantization_bit=4)


def lose_the_weights(source, target):
    (source / "model.safetensors").unlink()


def be_another_model(source, target):
    change_json(source / "config.json", model_type="llama")


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (take_the_target, [], "target exists: give a new folder"),
        (be_quantised, [], "is quantised to 4 bits already"),
        (lose_the_weights, [], "holds no weights"),
        (be_another_model, [], "describes a llama model"),
        (None, ["--calibration", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (None, ["--calibration", __file__], "line 1 is not JSON"),
    ],
)
def test_what_is_wrong_is_one_line(source, tmp_path, monkeypatch, capsys, damage, flags, message):
    if damage is not None:
        damage(source, tmp_path / "target")
    status, out, err = run(monkeypatch, capsys, source, tmp_path / "target", *flags)
    assert status == 2 and out == ""
    assert err.startswith("quantize.py: error: ") and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "target" / "config.json").exists()


def test_missing_source_is_named(tmp_path, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, tmp_path / "none", tmp_path / "target")
    assert status == 2 and f"{tmp_path / 'none'}: no such folder" in err


def test_other_bits_are_refused(tmp_path, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, tmp_path, tmp_path / "target", "--bits", "3")
    assert status == 2 and "--bits" in err


# Killed at any moment


def at_the_first_block(monkeypatch, stop):
    monkeypatch.setattr(conversion, "quantize_block", lambda *_: stop())


def while_writing(monkeypatch, stop):
    def write(weights, file, metadata):
        file.write_bytes(bytes(1000))
        stop()

    monkeypatch.setattr(conversion, "save_file", write)


def while_copying(monkeypatch, stop):
    monkeypatch.setattr(conversion.shutil, "copyfile", lambda *_: stop())


def before_the_name(monkeypatch, stop):
    monkeypatch.setattr(conversion.Path, "rename", lambda *_: stop())


@pytest.mark.skipif(os.name != "posix", reason="has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("moment", [at_the_first_block, while_writing, while_copying, before_the_name])
def test_signals_leave_nothing_and_a_rerun_works(source, tmp_path, monkeypatch, capsys, moment, name):
    number = getattr(signal, name)

    def stop() -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)  # a second one, while it cleans up

    target, handler = tmp_path / "target", signal.getsignal(number)
    with monkeypatch.context() as patch:
        moment(patch, stop)
        status, out, err = run(patch, capsys, source, target)
    assert status == 128 + number and out == "" and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert signal.getsignal(number) == handler
    assert run(monkeypatch, capsys, source, target)[0] in (0, None) and (target / "config.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="locks folders there")
def test_a_rerun_removes_what_kill_9_left_and_not_what_another_process_writes(source, tmp_path, monkeypatch, capsys):
    """A container gives the same process id again: what is left must be no obstacle."""
    left = [tmp_path / f"target.unfinished-{number}" for number in (0, 1, os.getpid())]
    for folder in left:
        folder.mkdir()
        (folder / "0.safetensors").write_bytes(bytes(1000))
    (tmp_path / "target.unfinished-file").write_text("somebody's")
    with conversion.locked(left[1]):  # by a process that lives; the lock is of the open file, not of the process
        status, *_ = run(monkeypatch, capsys, source, tmp_path / "target")
        assert status in (0, None)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "source",
            "target",
            "target.unfinished-1",
            "target.unfinished-file",
        ]
