"""Fine-tune ChatGLM-6B on a file of examples (P-Tuning v2, LoRA or all parameters), and measure the result.

    python ptuning/main.py --do_train --train_file train.json --prompt_column content --response_column summary \\
        --pre_seq_len 128 --output_dir output/adgen          # P-Tuning v2; or --lora_rank 8; or neither: everything
    python ptuning/main.py --do_predict --test_file dev.json --prompt_column content --response_column summary \\
        --ptuning_checkpoint output/adgen --output_dir output/adgen

A run that was killed goes on from its last checkpoint when the same command is given again. Ctrl-C stops it.
"""

import json
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a script: its own folder, whose names are short, gives way to the project's
    sys.path[0] = str(ROOT)

from loading import adapters  # noqa: E402
from loading.arguments import run_main  # noqa: E402
from loading.checkpoint import LoadError, format_bytes, refusals, shorten  # noqa: E402
from loading.load import load_model_and_tokenizer  # noqa: E402
from ptuning import data, evaluation, resuming  # noqa: E402
from ptuning.arguments import (  # noqa: E402
    DataArguments,
    ModelArguments,
    TrainingArguments,
    parse_training_arguments,
)
from ptuning.trainer import SAVING_FOLDER, ChatGLMTrainer, StepCounter, TrainingError, checkpoints  # noqa: E402

EXPECTED_ERRORS = (data.DataError, TrainingError)


def check_arguments(model: ModelArguments, files: DataArguments, training: TrainingArguments) -> None:
    """Refuse combinations that cannot work, before anything is loaded."""
    needed = {"do_train": "train_file", "do_eval": "validation_file", "do_predict": "test_file"}
    if not any(getattr(training, name) for name in needed):
        raise LoadError("nothing to do: give --do_train, --do_eval or --do_predict")
    for action, file in needed.items():
        if getattr(training, action) and getattr(files, file) is None:
            raise LoadError(f"--{action} needs --{file}")
    with refusals(f"--output_dir {training.output_dir} cannot be written: give a folder that can"):
        Path(training.output_dir).mkdir(parents=True, exist_ok=True)
        if not os.access(training.output_dir, os.W_OK):
            raise PermissionError("it may only be read")
    has_adapter = bool(model.pre_seq_len or model.lora_rank or model.ptuning_checkpoint)
    if training.do_train and model.quantization_bit and not has_adapter:
        raise LoadError(
            "quantised weights cannot be trained: add --pre_seq_len 128 (P-Tuning v2) or --lora_rank 8 (LoRA), or "
            "leave out --quantization_bit to train all parameters"
        )
    if not training.do_train and not model.ptuning_checkpoint and (model.pre_seq_len or model.lora_rank):
        raise LoadError("--pre_seq_len and --lora_rank make a new adapter: to measure one, give --ptuning_checkpoint")
    if shards_weights(training) and has_adapter:
        raise LoadError("adapters are small: train them with torchrun or ZeRO stage 2, not with sharded weights")
    if training.fsdp and training.device.type == "cpu":  # accelerate would copy the weights to each process
        raise LoadError("--fsdp shards weights on GPUs only: leave it out on a CPU, or use --deepspeed")
    if training.n_gpu > 1:
        raise LoadError(
            f"{training.n_gpu} GPUs, one process: start one process a GPU (torchrun --nproc_per_node {training.n_gpu} "
            "ptuning/main.py …), or choose one GPU: CUDA_VISIBLE_DEVICES=0"
        )


def shards_weights(training: TrainingArguments) -> bool:
    """Return whether each process holds a part of the weights only (FSDP, DeepSpeed ZeRO stage 3)."""
    if training.deepspeed is None:
        return bool(training.fsdp)
    settings = training.deepspeed
    settings = json.loads(Path(settings).read_text(encoding="utf-8")) if isinstance(settings, str) else settings
    return settings.get("zero_optimization", {}).get("stage") == 3


def load(model_arguments: ModelArguments, training: TrainingArguments) -> tuple:
    """Load the base, and put the prefix or the LoRA adapter that is asked for on it."""
    if model_arguments.device == "auto":
        places_itself = training.deepspeed is not None or bool(training.fsdp)
        model_arguments.device = "cpu" if places_itself else str(training.device)
    wants_adapter = model_arguments.pre_seq_len or model_arguments.lora_rank or model_arguments.ptuning_checkpoint
    if training.do_train and not wants_adapter and model_arguments.dtype == "auto":
        model_arguments.dtype = "float32"  # weights that are trained; --bf16 and --fp16 say what is computed in
    model, tokenizer = load_model_and_tokenizer(model_arguments)
    transformers.set_seed(training.seed)
    length = model_arguments.pre_seq_len
    if length and not adapters.has_adapter(model):
        adapters.add_prefix(model, length, model_arguments.prefix_projection)
    elif length and model.config.pre_seq_len != length:
        place = model_arguments.ptuning_checkpoint or model_arguments.model_name_or_path
        raise LoadError(
            f"--pre_seq_len is {length}, but the adapter in {place} has {model.config.pre_seq_len}: give that number, "
            "or leave the flag out"
        )
    if model_arguments.lora_rank and not adapters.has_adapter(model):
        targets = model_arguments.lora_target_modules.split(",")
        adapters.add_lora(
            model, model_arguments.lora_rank, model_arguments.lora_alpha, model_arguments.lora_dropout, targets
        )
    return model, tokenizer


def training_data(tokenizer, files: DataArguments, training: TrainingArguments) -> data.Dataset:
    """Read and encode what is trained on, general dialogues included, and say what was cut."""
    counts = data.Counts()
    examples = data.read_examples(files.train_file, files, counts)[: files.max_train_samples]
    if files.general_data is not None:
        count = round(len(examples) * files.general_share / (1 - files.general_share))
        examples += data.general_examples(files, count, training.seed)
    encoded = data.encode_examples(tokenizer, examples, files, counts)
    report(f"{files.train_file}: {counts}")
    return encoded


def train(model, tokenizer, files: DataArguments, training: TrainingArguments) -> None:
    """Train, from the last checkpoint if there is one, save, and say what the run took."""
    output_dir, validation = Path(training.output_dir), None

    def score_answers() -> dict[str, float]:
        place = output_dir / "validation_predictions.txt"
        batch_size = training.per_device_eval_batch_size
        return evaluation.evaluate_answers(model, tokenizer, examples, files, batch_size, place)

    if training.do_eval:
        examples = data.read_examples(files.validation_file, files)[: files.max_eval_samples]
        validation = data.encode_examples(tokenizer, examples, files, data.Counts())
    trainer = ChatGLMTrainer(
        model=model,
        args=training,
        tokenizer=tokenizer,
        train_dataset=training_data(tokenizer, files, training),
        eval_dataset=validation,
        data_collator=data.Collator(tokenizer.pad_token_id),
        score_answers=score_answers if training.do_eval and training.predict_with_generate else None,
    )
    resume = prepare_folder(model, files, training)
    start = int(resume.rpartition("-")[2]) if resume and resume.rpartition("-")[2].isdigit() else 0
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    counter = StepCounter()
    trainer.add_callback(counter)
    try:
        metrics = trainer.train(resume_from_checkpoint=resume).metrics
    except Exception as error:
        if resume is None or counter.steps or isinstance(error, (LoadError, *EXPECTED_ERRORS)):
            raise
        raise LoadError(
            f"cannot resume from {resume}: {shorten(error)}. Delete that folder, so that an earlier one is taken, or "
            "start anew with --overwrite_output_dir"
        ) from error
    trainer.save_model()
    metrics |= {
        "trainable_parameters": parameters,
        "seconds_per_step": metrics["train_runtime"] / max(1, trainer.state.global_step - start),
        "peak_memory_bytes": peak_memory(model.device),
    }
    if training.should_save:
        trainer.save_state()
        trainer.save_metrics("train", metrics)
        evaluation.plot_losses(trainer.state.log_history, output_dir / "loss_curve.png")
        report(summary(trainer.state, metrics, output_dir, adapters.has_adapter(model)))


def prepare_folder(model, files: DataArguments, training: TrainingArguments) -> str | None:
    """Return the checkpoint to go on from, if any; empty the output folder or check that it is the same run's."""
    output_dir, resume = Path(training.output_dir), training.resume_from_checkpoint
    described = resuming.describe_run(model, files, training)
    found = checkpoints(output_dir)
    if training.overwrite_output_dir and resume is None:
        for folder in (*found, output_dir / SAVING_FOLDER) if training.should_save else ():
            shutil.rmtree(folder, ignore_errors=True)
    elif found and resume is None:
        resuming.check_same_run(output_dir, described)
        resume = str(resuming.choose_checkpoint(output_dir, report))
    if resume and training.deepspeed is None and not training.fsdp:  # those keep their state in files of their own
        resuming.report_missing(Path(resume), report)
    if training.should_save:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / resuming.RUN_FILE).write_text(json.dumps(described, indent=1, ensure_ascii=False), "utf-8")
    return resume


def summary(state: transformers.TrainerState, metrics: dict[str, Any], output_dir: Path, is_adapter: bool) -> str:
    """Return what a run did, in two lines: steps, time, losses, memory, what was written, how to use it."""
    curve = [row["loss"] for row in state.log_history if "loss" in row]
    losses = f"loss {curve[0]:.4g} -> {curve[-1]:.4g}" if curve else "no loss was logged"
    flag = "--ptuning_checkpoint" if is_adapter else "--model"
    return (
        f"trained to step {state.global_step} in {metrics['train_runtime']:.0f} s "
        f"({metrics['seconds_per_step']:.2f} s a step), {losses}, {metrics['trainable_parameters']:,} parameters, "
        f"at most {format_bytes(metrics['peak_memory_bytes'])}\n"
        f"curve: {output_dir / 'loss_curve.png'}; try it: python cli_demo.py {flag} {output_dir}"
    )


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has taken on a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(model, tokenizer, files: DataArguments, training: TrainingArguments, name: str) -> dict[str, float]:
    """Measure the model on the validation and the test file as far as they are asked for; `name` is before or after."""
    metrics, batch_size = {}, training.per_device_eval_batch_size
    folder, suffix = Path(training.output_dir), "" if name == "after" else "_before"
    splits = {
        "eval": (training.do_eval, files.validation_file, files.max_eval_samples, "validation_predictions"),
        "predict": (training.do_predict, files.test_file, files.max_predict_samples, evaluation.PREDICTIONS),
    }
    for split, (wanted, file, limit, predictions) in splits.items():
        if wanted:
            examples = data.read_examples(file, files)[:limit]
            found = evaluation.perplexity(model, tokenizer, examples, files, batch_size)
            if training.predict_with_generate:
                place = folder / f"{predictions}{suffix}.txt"
                found |= evaluation.evaluate_answers(model, tokenizer, examples, files, batch_size, place)
            metrics |= {f"{split}_{metric}": value for metric, value in found.items()}
            metrics[f"{split}_samples"] = len(examples)
    if files.forgetting_cases:
        cases = data.read_cases(files.forgetting_cases, files)
        shares = evaluation.kept_answers(model, tokenizer, cases, files, batch_size)
        metrics |= {f"skill {skill}": share for skill, share in shares.items()}
    return metrics


def report(text: str) -> None:
    """Say something on standard error, once for all processes."""
    if evaluation.rank_and_size()[0] == 0:
        print(text, file=sys.stderr)


def run(model_arguments: ModelArguments, files: DataArguments, training: TrainingArguments) -> None:
    """Do what the arguments say: measure the base, train, measure the result, write the tables."""
    check_arguments(model_arguments, files, training)
    model, tokenizer = load(model_arguments, training)
    output_dir, before = Path(training.output_dir), {}
    if files.evaluate_before:
        with adapters.adapters_off(model) if adapters.has_adapter(model) else nullcontext():
            before = measure(model, tokenizer, files, training, "before")
    if training.do_train:
        train(model, tokenizer, files, training)
    if not (training.do_eval or training.do_predict or files.forgetting_cases):
        return
    after = measure(model, tokenizer, files, training, "after")
    report(json.dumps(after))
    if training.should_save:
        output_dir.mkdir(parents=True, exist_ok=True)
        measured = {"before": before, "after": after}
        evaluation.write_results(after, output_dir)
        (output_dir / "measured.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
        if before:
            table = evaluation.comparison_table(before, after, files.test_file or files.validation_file or "")
            (output_dir / "before_after.md").write_text(table, encoding="utf-8")
            report(table)


def main() -> int | None:
    """Parse the command line and run."""
    try:
        run(*parse_training_arguments(__doc__, sys.argv[1:]))
    except EXPECTED_ERRORS as error:
        raise LoadError(str(error)) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_main(main)
