"""The library's trainer with whole checkpoints, adapter checkpoints, and an end to runs whose loss is not finite."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from transformers import ProgressCallback, Seq2SeqTrainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from loading import adapters
from loading.adapters import check_prefix_base, read_prefix
from loading.checkpoint import refusals
from ptuning.diagnosis import broken_gradients, find_not_finite

STATE_FILE = "trainer_state.json"
SAVING_FOLDER = ".saving"
WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)


class TrainingError(RuntimeError):
    """A run that cannot go on. The message says why, and what to do."""


class StepCounter(TrainerCallback):
    """Count the steps that this process has done: what fails before the first one may be a damaged checkpoint."""

    steps = 0

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:  # noqa: D102
        self.steps += 1


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first; a folder so named is a whole one (see `_save_checkpoint`)."""
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    numbered = [folder for folder in found if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name)]
    whole = [folder for folder in numbered if (folder / STATE_FILE).is_file()]
    return sorted(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))


class LossBar(ProgressCallback):
    """The library's progress bar with the loss of the newest step, from the first one on."""

    def __init__(self, trainer: ChatGLMTrainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **keywords):
        """Forget the loss of the step before."""
        self.trainer.step_loss = 0.0

    def on_step_end(self, args, state, control, **keywords):
        """Show the step and its loss."""
        super().on_step_end(args, state, control, **keywords)
        if self.training_bar is not None:
            self.training_bar.set_postfix(loss=f"{self.trainer.step_loss:.4g}")


class ChatGLMTrainer(Seq2SeqTrainer):
    """Train a model, or its prefix or LoRA adapter alone; everything else is the library's.

    Args:
        tokenizer: saved with full checkpoints.
        score_answers: returns BLEU-4 and ROUGE of answers to the validation file, to be added to each evaluation.
        **keywords: the library's.

    Attributes:
        step_loss: loss of the newest step.
    """

    def __init__(self, *, tokenizer, score_answers: Callable[[], dict[str, float]] | None = None, **keywords) -> None:
        self._saving, self.step_loss, self.score_answers = False, 0.0, score_answers
        super().__init__(processing_class=tokenizer, **keywords)
        if self.pop_callback(ProgressCallback):
            self.add_callback(LossBar(self))

    # ---- Loss ----

    def compute_loss(self, model, inputs, *arguments, **keywords):
        """Compute the loss, and stop where it is not finite.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        if self.label_smoother is not None and "logits_to_keep" in inputs:  # it compares logits and labels itself
            inputs = {**inputs, "labels": inputs["labels"][:, -inputs["logits_to_keep"] :]}
        result = super().compute_loss(model, inputs, *arguments, **keywords)
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss.detach()).all():
            self._stop(f"the loss is {float(loss.detach().mean())}", inputs)
        return result

    def training_step(self, model, inputs, *arguments, **keywords):
        """Compute a batch's loss and gradients, and stop where a gradient is not finite.

        Raises:
            TrainingError: a gradient is NaN or infinite; with float16, whose scaler leaves such steps out, it is not.
        """
        loss = super().training_step(model, inputs, *arguments, **keywords)
        self.step_loss += float(loss)
        if not self.args.fp16 and (broken := broken_gradients(model)):
            self._stop(f"the gradient of {broken[-1]} is not finite (loss {float(loss):.4g})", inputs)
        return loss

    def evaluate(self, *arguments, metric_key_prefix: str = "eval", **keywords) -> dict[str, float]:
        """Measure the loss and, if asked for, the answers."""
        metrics = super().evaluate(*arguments, metric_key_prefix=metric_key_prefix, **keywords)
        if self.score_answers is not None:
            scores = {f"{metric_key_prefix}_{name}": value for name, value in self.score_answers().items()}
            self.log(scores)
            metrics |= scores
        return metrics

    def _stop(self, what: str, inputs: dict[str, Any]) -> NoReturn:
        """Raise a TrainingError that says what was found, and where it began if that can be found out."""
        where, last = "", checkpoints(self.args.output_dir)
        if not (self.args.deepspeed or self.args.fsdp):  # there, one process alone cannot run the step again
            with self.compute_loss_context_manager():
                where = ": " + find_not_finite(self.model, self._prepare_inputs(inputs))
        raise TrainingError(
            f"{what} in step {self.state.global_step + 1}{where}. Training was stopped; last checkpoint: "
            f"{last[-1] if last else 'none'}"
        )

    # ---- Saving ----

    def _get_output_dir(self, trial=None) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, SAVING_FOLDER) if self._saving else folder

    def _save_checkpoint(self, model, trial, *arguments, **keywords) -> None:
        """Write a checkpoint into a folder of another name, and rename it when all of it is on the disk.

        So a checkpoint is whole or not there, whenever the process is killed or the disk is full.

        Raises:
            TrainingError: it could not be written, or the trained weights are not finite; older checkpoints stay.
        """
        output_dir, step = Path(self.args.output_dir), self.state.global_step
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        saving, last = output_dir / SAVING_FOLDER, checkpoints(output_dir)
        kept = f"Last whole checkpoint: {last[-1] if last else 'none'}; the same command goes on from it"
        for weight_name, weight in self.model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight.detach()).all():
                raise TrainingError(f"{weight_name} is not finite after step {step}: nothing was saved. {kept}")
        if self.args.should_save:
            shutil.rmtree(saving, ignore_errors=True)
        self._wait()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial, *arguments, **keywords)
            self._wait()
            if self.args.should_save:
                self._finish_checkpoint(saving / name, output_dir / name)
        except WRITING_ERRORS as error:
            shutil.rmtree(saving, ignore_errors=True)
            raise TrainingError(f"cannot write {output_dir / name}: {error}. Is the disk full? {kept}") from error
        finally:
            self._saving = False
        self._wait()
        if self.state.best_model_checkpoint:
            self.state.best_model_checkpoint = self.state.best_model_checkpoint.replace(f"{SAVING_FOLDER}{os.sep}", "")
        if self.args.should_save and self.args.save_total_limit:
            self._delete_old()

    def _finish_checkpoint(self, written: Path, target: Path) -> None:
        state = written / STATE_FILE
        content = state.read_text(encoding="utf-8").replace(json.dumps(f"{SAVING_FOLDER}{os.sep}")[1:-1], "")
        state.write_text(content, encoding="utf-8")
        for file in written.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if target.exists():  # an incomplete one, or one of an earlier run that is written anew
            shutil.rmtree(target)
        written.rename(target)
        if os.name == "posix":
            folder = os.open(target.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        written.parent.rmdir()

    def _delete_old(self) -> None:
        """Delete the oldest checkpoints beyond `save_total_limit`, but never the best one or the last."""
        found, best = checkpoints(self.args.output_dir), self.state.best_model_checkpoint
        old = [folder for folder in found[:-1] if best is None or folder.name != Path(best).name]
        for folder in old[: max(0, len(found) - self.args.save_total_limit)]:
            shutil.rmtree(folder)

    @staticmethod
    def _wait() -> None:
        if dist.is_initialized():
            dist.barrier()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not adapters.has_adapter(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            adapters.save_adapter(self.model, Path(output_dir or self.args.output_dir))

    # ---- Resuming ----

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if not adapters.has_adapter(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        advice = "train with the arguments it was made with, or start anew with --overwrite_output_dir"
        with refusals(f"cannot resume from {folder} ({advice})"):
            if adapters.lora_layers(self.model):
                adapters.load_lora_weights(self.model, folder)
            else:
                check_prefix_base(folder, self.model)
                prefix = read_prefix(folder, self.model.config)
                self.model.transformer.prefix_encoder.load_state_dict(prefix)

    def _load_best_model(self) -> None:
        if adapters.has_adapter(self.model):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()
