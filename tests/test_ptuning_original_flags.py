"""Tests of ptuning/original_flags.py and of the parser behind it: command lines of the original, and JSON files."""

from __future__ import annotations

import json
import os

import pytest
import torch

pytest.importorskip("datasets", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

from ptuning.arguments import parse_training_arguments  # noqa: E402
from ptuning.original_flags import OUTDATED, translate  # noqa: E402


def parse(folder, *words):
    return parse_training_arguments("", ["--output_dir", str(folder), *words])


# Source: the fields of the original's ptuning/arguments.py, and what its scripts set of the library's.
ORIGINAL = (
    "--model_name_or_path m --config_name c --tokenizer_name t --cache_dir d --use_fast_tokenizer True "
    "--model_revision main --use_auth_token --resize_position_embeddings True --quantization_bit 4 --pre_seq_len 128 "
    "--prefix_projection --lang zh --dataset_config_name x --prompt_column content --response_column summary "
    "--history_column history --train_file a.json --validation_file b.json --test_file c.json --overwrite_cache "
    "--preprocessing_num_workers 10 --max_source_length 64 --max_target_length 65 --val_max_target_length 66 "
    "--pad_to_max_length --max_train_samples 7 --max_eval_samples 8 --max_predict_samples 9 --num_beams 2 "
    "--ignore_pad_token_for_loss False --source_prefix p --forced_bos_token b --do_train --do_eval --do_predict "
    "--overwrite_output_dir --per_device_train_batch_size 1 --per_device_eval_batch_size 2 "
    "--gradient_accumulation_steps 16 --predict_with_generate --max_steps 3000 --logging_steps 10 --save_steps 1000 "
    "--learning_rate 2e-2 --half_precision_backend auto --save_safetensors False"
)


def test_every_flag_of_the_original_parses(tmp_path):
    model, files, training = parse(tmp_path, *ORIGINAL.split())
    assert (model.model_name_or_path, model.quantization_bit, model.pre_seq_len) == ("m", 4, 128)
    assert model.prefix_projection and training.predict_with_generate and training.overwrite_output_dir
    assert (files.max_source_length, files.max_target_length, files.val_max_target_length) == (64, 65, 66)
    assert (files.max_train_samples, files.max_eval_samples, files.max_predict_samples) == (7, 8, 9)
    assert (files.prompt_column, files.history_column, files.source_prefix) == ("content", "history", "p")
    assert (training.learning_rate, training.max_steps, training.gradient_accumulation_steps) == (0.02, 3000, 16)


def test_flags_of_the_original_that_decide_nothing_say_why(tmp_path, capsys):
    words = [word for name in OUTDATED for word in (f"--{name}", *(["x"] if len(name) % 2 else []))]
    _, files, training = parse(tmp_path, *words, "--do_train", "--train-file", "a.json")
    assert training.do_train and files.train_file == "a.json"
    said = capsys.readouterr().err
    assert all(f"--{name} no longer matters: {reason}" in said for name, reason in OUTDATED.items())


def test_flags_that_the_library_dropped_are_translated(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # so that it is as before afterwards
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    words = "--warmup_ratio 0.1 --group_by_length --logging_dir logs --evaluation_strategy steps --eval_steps 5"
    _, _, training = parse(tmp_path, *words.split())
    assert training.warmup_steps == 0.1 and training.train_sampling_strategy == "group_by_length"
    assert training.eval_strategy == "steps" and os.environ["TENSORBOARD_LOGGING_DIR"] == "logs"
    assert translate(["--group_by_length", "False"])[0] != "--train_sampling_strategy"


def test_a_data_set_of_the_hub_is_refused_with_the_way_out(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, "--dataset_name", "adgen")
    assert "give --train_file" in capsys.readouterr().err.splitlines()[-1]


def test_one_json_file_of_arguments_is_a_command_line(tmp_path):
    file = tmp_path / "arguments.json"
    values = {
        "output_dir": "out",
        "do_train": True,
        "learning_rate": 0.5,
        "pre_seq_len": 4,
        "source_prefix": "问 ：",
        "lora_rank": None,
    }
    file.write_text(json.dumps(values), encoding="utf-8")
    model, files, training = parse_training_arguments("", [str(file)])
    assert (model.pre_seq_len, files.source_prefix, training.do_train, training.learning_rate) == (
        4,
        "问 ：",
        True,
        0.5,
    )


@pytest.mark.parametrize("content", ["[1]", "{", None])
def test_a_json_file_that_is_none_ends_in_one_line(tmp_path, capsys, content):
    file = tmp_path / "arguments.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_training_arguments("", [str(file)])
    assert str(file) in capsys.readouterr().err.splitlines()[-1]


def test_learning_rate_fits_the_method_unless_given(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    adapter = ["--ptuning_checkpoint", str(tmp_path)]
    rates = [([], 1e-4), (["--pre_seq_len", "8"], 2e-2), (["--lora_rank", "8"], 1e-3), (adapter, 1e-3)]
    for words, rate in rates:
        assert parse(tmp_path, *words)[2].learning_rate == rate
        assert parse(tmp_path, *words, "--learning_rate", "0.3")[2].learning_rate == 0.3


def test_processes_on_a_machine_without_a_gpu_compute_on_the_cpu(tmp_path, monkeypatch):
    """As with --device cpu: several processes find each other then, instead of training the same rows twice."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert parse(tmp_path)[2].use_cpu
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert "--use_cpu" not in translate([]) and "--use_cpu" in translate(["--device", "cpu"])
