"""Tests of ptuning/main.py and ptuning/trainer.py by runs of a few steps on a small checkpoint, some of them killed.

Runs are processes, forked from one that has imported what is needed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from replay import write_small_checkpoint
from safetensors.torch import load_file

for package in ("datasets", "peft", "rouge_chinese"):
    pytest.importorskip(package, reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

from loading import adapters  # noqa: E402
from loading.adapters import PREFIX_FILE  # noqa: E402
from loading.arguments import ModelArguments, run_main  # noqa: E402
from loading.load import load_model_and_tokenizer  # noqa: E402
from ptuning import main, trainer  # noqa: E402
from ptuning.arguments import parse_training_arguments  # noqa: E402

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ptuning.main", "ptuning.trainer"])
STEPS = 6
FLAGS = (
    "--do_train --prompt_column q --response_column a --device cpu --report_to none --disable_tqdm true "
    f"--max_steps {STEPS} --logging_steps 1 --save_steps 2 --learning_rate 0.02 --per_device_train_batch_size 1 "
    "--lr_scheduler_type linear --seed 3"
).split()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    texts = ["你好", "白色的上衣", "我很高兴", "牛仔", "今天天气很好", "再见", "是的", "好的好的"]
    file.write_text(
        "\n".join(json.dumps({"q": text, "a": texts[-1 - number]}) for number, text in enumerate(texts)), "utf-8"
    )
    return file


def run_here(*flags: str) -> None:
    main.run(*parse_training_arguments("", [str(flag) for flag in flags]))


def child(flags: list[str], environment: dict[str, str], kill: tuple[str, int] | None, log: str) -> None:
    """Run in a process; with `kill`, end it as kill -9 does when a method of the trainer is called the n-th time."""
    sys.stdout = sys.stderr = open(log, "w", encoding="utf-8")  # noqa: SIM115
    os.environ.update(environment)
    torch.set_num_threads(1)
    if kill:
        name, times = kill
        method, calls = getattr(trainer.ChatGLMTrainer, name), []

        def killing(*arguments, **keywords):
            calls.append(name)
            if len(calls) == times:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **keywords)

        setattr(trainer.ChatGLMTrainer, name, killing)
    sys.argv = ["main.py", *flags]
    run_main(main.main)


def run(folder: Path, *flags, environment: dict[str, str] | None = None, kill=None):
    """Run in a process of its own; return the process and its log's file."""
    log = f"{folder}.{len(multiprocessing.active_children())}.{time.monotonic_ns()}.log"
    arguments = [str(flag) for flag in (*FLAGS, "--output_dir", folder, *flags)]
    process = PROCESSES.Process(target=child, args=(arguments, environment or {}, kill, log))
    process.start()
    return process, Path(log)


def finish(process, log: Path, status: int = 0) -> str:
    process.join(300)
    text = log.read_text(encoding="utf-8")
    assert process.exitcode == status, text
    return text


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["loss"] for row in history if "loss" in row]


@pytest.fixture(scope="module")
def whole(base, rows, tmp_path_factory):
    """Return the folder of a P-Tuning run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finish(*run(folder, "--model", base, "--train_file", rows, "--pre_seq_len", 3))
    return folder


def test_run_writes_prefix_curve_and_log(whole):
    assert (whole / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(losses(whole)) == STEPS
    for folder in (whole, *trainer.checkpoints(whole)):
        assert (folder / PREFIX_FILE).stat().st_size < 10_000 and not (folder / "model.safetensors").exists()
    assert [folder.name for folder in trainer.checkpoints(whole)] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    metrics = json.loads((whole / "train_results.json").read_text())
    assert metrics["trainable_parameters"] == 3 * 2 * 2 * 32 and metrics["seconds_per_step"] > 0


@pytest.mark.parametrize(
    "kill", [("training_step", 6), ("_save_rng_state", 2), ("_finish_checkpoint", 2)], ids=lambda kill: kill[0]
)
def test_run_resumes_after_kill(base, rows, whole, tmp_path, kill):
    """Between two saves, in the middle of writing one, and before a written one got its name: the curve is the same."""
    folder, flags = tmp_path / "out", ("--model", base, "--train_file", rows, "--pre_seq_len", 3)
    finish(*run(folder, *flags, kill=kill), status=-signal.SIGKILL)
    expected = 4 if kill[0] == "training_step" else 2
    assert [item.name for item in trainer.checkpoints(folder)][-1] == f"checkpoint-{expected}"
    log = finish(*run(folder, *flags))
    assert f"checkpoint-{expected}" in log and "resuming" in log
    assert losses(folder) == losses(whole)
    assert torch.equal(*(load_file(place / PREFIX_FILE)["embedding.weight"] for place in (folder, whole)))
    assert not (folder / trainer.SAVING_FOLDER).exists()


def run_two(folder: Path, *flags, environment: dict[str, str] | None = None) -> list:
    """Run in two gloo processes, started as torchrun starts them; return what `run` does for each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    variables = ({**common, **(environment or {}), **rank} for rank in ranks)
    return [run(folder, *flags, "--ddp_backend", "gloo", environment=variable) for variable in variables]


@pytest.mark.long
def test_two_processes_give_the_loss_curve_of_one(base, rows, tmp_path):
    """Two processes of one example a step against one that accumulates two.

    With LoRA: the dropout of a prefix draws other numbers in each process.
    """
    flags = ("--model", base, "--train_file", rows, "--lora_rank", 2, "--max_steps", 4, "--logging_steps", 2)
    started = run_two(tmp_path / "two", *flags)
    started.append(run(tmp_path / "one", *flags, "--gradient_accumulation_steps", 2))
    for process in started:
        finish(*process)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    two, one = (load_file(tmp_path / name / adapters.LORA_FILE) for name in ("two", "one"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-3, rtol=1e-3)
    assert trainer.checkpoints(tmp_path / "two")[-1].name == "checkpoint-4"


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed's way of two processes on a CPU is Linux's")
def test_deepspeed_gives_the_loss_curve_of_one_process_and_resumes(base, rows, tmp_path):
    """All parameters by ZeRO stage 2 in two processes on the CPU, stopped after two steps and started again.

    The first run on a machine compiles DeepSpeed's communication, which takes about a minute.
    """
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed")
    flags = ("--model", base, "--train_file", rows, "--learning_rate", 1e-3, "--lr_scheduler_type", "constant")
    zero = ("--deepspeed", Path(main.ROOT) / "ptuning" / "deepspeed.json")
    for steps in (2, 4):
        started = run_two(tmp_path / "two", *flags, *zero, "--max_steps", steps, environment={"DS_ACCELERATOR": "cpu"})
        logs = [finish(*process) for process in started]
    assert "resuming" in logs[0]
    finish(*run(tmp_path / "one", *flags, "--max_steps", 4, "--gradient_accumulation_steps", 2))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-3)
    loaded, plain = (
        load_model_and_tokenizer(ModelArguments(str(tmp_path / name), "cpu"))[0] for name in ("two", "one")
    )
    torch.testing.assert_close(loaded.lm_head.weight, plain.lm_head.weight, atol=2e-3, rtol=1e-2)


def test_nan_loss_stops_the_run(base, rows, tmp_path):
    broken = tmp_path / "broken"
    model = write_small_checkpoint(broken)
    with torch.no_grad():
        model.transformer.layers[1].mlp.dense_h_to_4h.weight[0, 0] = float("nan")
    model.half().save_pretrained(broken)
    with pytest.raises(trainer.TrainingError, match="the loss is nan in step 1: the weight .*1.mlp.dense_h_to_4h"):
        run_here(*FLAGS, "--model", broken, "--train_file", rows, "--pre_seq_len", 3, "--output_dir", tmp_path / "out")
    assert trainer.checkpoints(tmp_path / "out") == []


def test_full_disk_keeps_the_last_checkpoint(base, rows, tmp_path, monkeypatch):
    """A limit on the size of files fails as a full disk does."""
    save = trainer.ChatGLMTrainer._save_checkpoint

    def limited(self, *arguments, **keywords):
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, old[1]))
        try:
            return save(self, *arguments, **keywords)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    monkeypatch.setattr(trainer.ChatGLMTrainer, "_save_checkpoint", limited)
    flags = ("--model", base, "--train_file", rows, "--pre_seq_len", 3, "--output_dir", tmp_path / "out")
    with pytest.raises(trainer.TrainingError, match="checkpoint-4.*disk full.*checkpoint-2"):
        run_here(*FLAGS, *flags, "--save_total_limit", 1)
    assert [item.name for item in trainer.checkpoints(tmp_path / "out")] == ["checkpoint-2"]
    assert not (tmp_path / "out" / trainer.SAVING_FOLDER).exists()
    monkeypatch.undo()
    run_here(*FLAGS, *flags, "--save_total_limit", 1)
    assert [item.name for item in trainer.checkpoints(tmp_path / "out")] == ["checkpoint-6"]


@pytest.mark.parametrize("kind", [("--lora_rank", 2, "--quantization_bit", 4), ("--learning_rate", 1e-3)])
def test_lora_and_full_runs_learn_and_resume(base, tmp_path, kind):
    file, folder = tmp_path / "row.json", tmp_path / "out"
    file.write_text('{"q": "你好", "a": "白色的上衣"}', encoding="utf-8")
    flags = (*FLAGS, "--model", base, "--train_file", file, "--output_dir", folder, "--lr_scheduler_type", "constant")
    run_here(*flags, *kind, "--max_steps", 2)
    run_here(*flags, *kind, "--max_steps", 4)
    curve = losses(folder)
    run_here(*flags, *kind, "--max_steps", 4, "--overwrite_output_dir")
    assert losses(folder) == pytest.approx(curve, abs=1e-4) and curve[-1] < curve[0] - 0.01
    assert len(trainer.checkpoints(folder)) == 2
    if kind[0] == "--lora_rank":
        loaded, _ = load_model_and_tokenizer(ModelArguments(str(base), "cpu", ptuning_checkpoint=str(folder)))
        assert len(adapters.lora_layers(loaded)) == 8 and not (folder / "model.safetensors").exists()
    else:
        loaded, _ = load_model_and_tokenizer(ModelArguments(str(folder), "cpu"))
        plain, _ = load_model_and_tokenizer(ModelArguments(str(base), "cpu"))
        assert not torch.equal(loaded.lm_head.weight, plain.lm_head.weight)


def test_validation_scores_answers_at_every_evaluation(base, rows, tmp_path):
    """Losses, BLEU-4 and ROUGE in the log of each; the last in the files that the original's users read."""
    turns = [("user", "你好"), ("assistant", "好"), ("user", "再见"), ("assistant", "再见"), ("user", "一")]
    dialogue = {"messages": [{"role": role, "content": content} for role, content in (*turns, ("assistant", "二"))]}
    (tmp_path / "validation.jsonl").write_text(json.dumps(dialogue), encoding="utf-8")
    flags = ["--do_eval", "--validation_file", tmp_path / "validation.jsonl", "--max_target_length", 16]
    flags += ["--predict_with_generate", "--eval_strategy", "steps", "--eval_steps", 2, "--max_steps", 4]
    run_here(*FLAGS, "--model", base, "--train_file", rows, "--lora_rank", 2, "--output_dir", tmp_path / "out", *flags)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    for name in ("eval_loss", "eval_bleu-4", "eval_rouge-1", "eval_rouge-2", "eval_rouge-l"):
        assert [row["step"] for row in history if name in row] == [2, 4], name
    written, combined = (
        json.loads((tmp_path / "out" / f"{name}_results.json").read_text(encoding="utf-8")) for name in ("eval", "all")
    )
    last = [row["eval_loss"] for row in history if "eval_loss" in row][-1]
    assert written["eval_loss"] == pytest.approx(last, abs=1e-3)
    assert written["eval_samples"] == 3 and "eval_bleu-4" in written and written.items() <= combined.items()
    lines = (tmp_path / "out" / "validation_predictions.txt").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [row["labels"] for row in answers] == ["好", "再见", "二"]
    assert answers[2]["history"] == [["你好", "好"], ["再见", "再见"]] and "history" not in answers[0]


def test_training_goes_on_from_an_adapter_of_peft(base, rows, tmp_path, capsys):
    """The first loss is the adapter's; it is said what a checkpoint lacks, what is passed over and what differs."""
    import peft

    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(base), "cpu", "float32"))
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query_key_value"]))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    made.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())["inference_mode"]
    file = tmp_path / "row.json"
    file.write_text('{"q": "你好", "a": "白色的上衣"}', encoding="utf-8")
    prompt, answer = tokenizer.encode_prompt("你好"), [*tokenizer.encode_text("白色的上衣"), tokenizer.eos_token_id]
    with torch.no_grad():
        labels = torch.tensor([[-100] * len(prompt) + answer])
        first = float(made(input_ids=torch.tensor([prompt + answer]), labels=labels, use_cache=False).loss)
    folder = tmp_path / "out"
    flags = (*FLAGS, "--model", base, "--train_file", file, "--output_dir", folder, "--lr_scheduler_type", "constant")
    flags += ("--dtype", "float32", "--ptuning_checkpoint", tmp_path / "theirs")
    run_here(*flags, "--max_steps", 4)
    curve = losses(folder)
    assert curve[0] == pytest.approx(first, abs=1e-3) and curve[-1] < curve[0]
    (folder / "checkpoint-2" / "optimizer.pt").unlink()
    weights = folder / "checkpoint-4" / adapters.LORA_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    capsys.readouterr()
    run_here(*flags, "--max_steps", 4)
    said = capsys.readouterr().err
    assert f"not resuming from {folder / 'checkpoint-4'}" in said and "checkpoint-2 lacks optimizer.pt" in said
    with pytest.raises(trainer.TrainingError, match="another run.*data was.*--overwrite_output_dir"):
        run_here(*flags, "--max_steps", 4, "--train_file", rows)


def test_gradient_checkpointing_gives_the_same_losses(base, rows, whole, tmp_path):
    flags = (*FLAGS, "--model", base, "--train_file", rows, "--pre_seq_len", 3, "--output_dir", tmp_path / "out")
    run_here(*flags, "--max_steps", 2, "--lr_scheduler_type", "constant", "--gradient_checkpointing")
    other = (*flags[:-1], tmp_path / "other")
    run_here(*other, "--max_steps", 2, "--lr_scheduler_type", "constant")
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "other"), abs=2e-4)


def test_bfloat16_gives_nearly_the_same_losses_and_tensorboard_gets_them(base, rows, whole, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = [*FLAGS, "--model", base, "--train_file", rows, "--pre_seq_len", 3, "--output_dir", tmp_path / "out"]
    flags[flags.index("none")] = "tensorboard"
    run_here(*flags, "--bf16")
    assert losses(tmp_path / "out") == pytest.approx(losses(whole), rel=0.02)
    assert losses(tmp_path / "out") != losses(whole)
    (events,) = (tmp_path / "out").rglob("events.out.tfevents.*")
    logged = EventAccumulator(str(events.parent)).Reload().Scalars("train/loss")
    assert [event.value for event in logged] == pytest.approx(losses(tmp_path / "out"))


def test_forgetting_is_reported(tmp_path, rows):
    """The embedded checkpoint before, and after a step that is far too large for it."""
    from resources.chatglm_mini.corpus import as_row
    from resources.chatglm_mini.evaluate import evaluate

    results = evaluate(Path(main.ROOT) / "chatglm", cases=12, names=["greetings", "identity"])
    cases = tmp_path / "cases.jsonl"
    lines = [as_row(dialogue, skill=result.skill.name) for result in results for dialogue in result.answered]
    cases.write_text("".join(lines), encoding="utf-8")
    flags = (*FLAGS, "--train_file", rows, "--lora_rank", 2, "--output_dir", tmp_path / "out", "--max_steps", 1)
    mixed = ("--general_data", cases, "--general_share", 0.5)
    run_here(*flags, *mixed, "--learning_rate", 10, "--forgetting_cases", cases, "--evaluate_before")
    measured = json.loads((tmp_path / "out" / "measured.json").read_text(encoding="utf-8"))
    for name in ("greetings", "identity"):
        assert measured["before"][f"skill {name}"] == 1 and measured["after"][f"skill {name}"] <= 0.2
        assert f"skill {name}" in (tmp_path / "out" / "before_after.md").read_text(encoding="utf-8")


def test_prediction_survives_metrics_that_fail(base, rows, whole, tmp_path, monkeypatch):
    """Predictions are on the disk when metrics start; batches give what single questions give."""
    flags = ["--do_predict", "--test_file", rows, "--prompt_column", "q", "--response_column", "a", "--device", "cpu"]
    flags += ["--model", base, "--ptuning_checkpoint", whole, "--predict_with_generate", "--max_target_length", 12]
    flags += ["--report_to", "none", "--output_dir"]

    def predictions(folder):
        lines = (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    run_here(*flags, tmp_path / "batch", "--per_device_eval_batch_size", 3, "--evaluate_before")
    table = (tmp_path / "batch" / "before_after.md").read_text(encoding="utf-8")
    assert all(name in table for name in ("predict_bleu-4", "predict_rouge-l", "predict_perplexity"))
    results, combined = (
        json.loads((tmp_path / "batch" / f"{name}_results.json").read_text(encoding="utf-8"))
        for name in ("predict", "all")
    )
    assert results["predict_samples"] == 8 and results.items() <= combined.items()

    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(main.evaluation, "mean_scores", fail)
    with pytest.raises(ZeroDivisionError):
        run_here(*flags, tmp_path / "single", "--per_device_eval_batch_size", 1)
    assert predictions(tmp_path / "single") == predictions(tmp_path / "batch")
    first = predictions(tmp_path / "batch")[0]
    assert (
        first["prompt"] == "你好"
        and first["labels"] == "好的好的"
        and "history" not in first
        and len(predictions(tmp_path / "batch")) == 8
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--do_train"], "--do_train needs --train_file"),
        ([], "nothing to do"),
        (["--do_train", "--train_file", "x", "--quantization_bit", "4"], "--pre_seq_len 128"),
        (["--do_predict", "--test_file", "x", "--pre_seq_len", "4"], "--ptuning_checkpoint"),
        pytest.param(
            ["--do_train", "--train_file", "x", "--use_cpu", "--fsdp", "full_shard"],
            "leave it out on a CPU",
            marks=pytest.mark.deprecated,  # the library prefers True, which no command line can say
        ),
    ],
)
def test_wrong_arguments_name_the_way_out(tmp_path, monkeypatch, flags, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # older releases set it, and later tests must not see that
    with pytest.raises(main.LoadError, match=re.escape(message)):
        run_here(*flags, "--output_dir", tmp_path, "--device", "cpu", "--report_to", "none")


def test_pre_seq_len_that_is_not_the_checkpoints_is_refused(base, rows, whole, tmp_path):
    flags = ["--do_predict", "--test_file", rows, "--output_dir", tmp_path, "--device", "cpu", "--report_to", "none"]
    with pytest.raises(main.LoadError, match="--pre_seq_len is 128.*has 3"):
        run_here(*flags, "--model", base, "--ptuning_checkpoint", whole, "--pre_seq_len", 128)


@pytest.mark.parametrize("script", ["train", "train_chat", "evaluate", "evaluate_finetune", "ds_train_finetune"])
def test_shell_scripts_give_flags_that_exist(script):
    text = (Path(main.ROOT) / "ptuning" / f"{script}.sh").read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in text and text.rstrip().endswith('"$@"')
    command = text[text.index("main.py") :].replace("\\\n", " ").split()[1:-1]
    command = [word.strip('"').replace("$LR", "0.1").replace("$PRE_SEQ_LEN", "2") for word in command]
    command = [word for word in command if word not in ("$SHARDING", "--bf16")]
    parse_training_arguments("", [*command, "--device", "cpu"])


@pytest.mark.long
def test_quantised_runs_learn_as_float_does(tmp_path):
    """The short form of `tests/benchmarks/acid_test.py`: one answer by heart, by LoRA on INT4; curves of ten steps.

    The curves are of an INT4 base that was calibrated: rounding to nearest costs an eighth of the first loss by itself.
    """
    from tests.benchmarks import acid_test

    model, rows = acid_test.EMBEDDED_CHECKPOINT, acid_test.write_rows(tmp_path, 1)
    base = acid_test.calibrate(tmp_path / "int4", dialogues=200)
    for flags in ("--lora_rank 8 --learning_rate 1e-3", "--pre_seq_len 16 --learning_rate 0.05"):
        curves = [
            acid_test.train(str(each), rows, flags, 10, tmp_path / f"{flags[2:6]} {Path(each).name}")
            for each in (model, base)
        ]
        assert acid_test.largest_difference(*curves) < acid_test.TOLERANCE
    acid_test.train(model, rows, "--lora_rank 8 --learning_rate 4e-3 --quantization_bit 4", 30, tmp_path / "heart")
    assert acid_test.count_right(model, 4, tmp_path / "heart", 1) == 1


def test_first_run_sees_its_loss(base, rows, tmp_path, capsys):
    """By default: in the progress bar from the first step, in a curve of 20 points and more, and at the end."""
    flags = " ".join(FLAGS).replace("--disable_tqdm true", "").replace("--logging_steps 1 ", "") + " --max_steps 45"
    run_here(*flags.split(), "--model", base, "--train_file", rows, "--lora_rank", 2, "--output_dir", tmp_path / "out")
    said, curve = capsys.readouterr().err, losses(tmp_path / "out")
    assert len(curve) >= 20 and re.search(r"1/45 .*loss=\d", said)
    assert f"loss {curve[0]:.4g} -> {curve[-1]:.4g}" in said and "cli_demo.py --ptuning_checkpoint" in said
