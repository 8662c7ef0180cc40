"""Train the mini checkpoint from nothing: vocabulary, corpus, model, loss curve, evaluation table.

    python -m resources.chatglm_mini.train                 # two processes on two CPU cores, into chatglm/
    python -m resources.chatglm_mini.train --output /tmp/m # somewhere else
    python -m resources.chatglm_mini.train --start chatglm --output /tmp/m --steps 0 --last-steps 1050 --last-rate 0.4

A run that was killed goes on where its last checkpoint was written when the same command is given again, with the same data
in the same order. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import GenerationConfig

from chatglm.configuration_chatglm import ChatGLMConfig
from chatglm.modeling_chatglm import ChatGLMForConditionalGeneration
from chatglm.tokenization_chatglm import ChatGLMTokenizer
from loading.devices import cpu_supports_bfloat16

from .corpus import FIRST, LAST, LISTS, MAIN, draw_dialogues
from .dialogue import Dialogue
from .optimizer import OUTPUTS, MuonAdamW
from .vocabulary import train_vocabulary

ROOT = Path(__file__).resolve().parents[2]
STATE = "training_state.pt"
VOCABULARY = "ice_text.model"
# Tokens; about as many as the longest dialogues of the corpus have. `chat` drops older rounds beyond it.
LONGEST_DIALOGUE = 768
DATA_SUFFIXES = (".json", ".model", ".safetensors")


@dataclass(frozen=True)
class Recipe:
    """What decides the result of a run.

    Attributes:
        steps: number of updates in which the rates rise and fall to `last_rate`.
        first_steps: number of these, the first, in which almost half of the dialogues are plain copying.
        lists_from: the step from which, until `steps`, closed lists are drawn more often.
        last_steps: number of updates after these, at small rates, on more of the skills that are learnt last.
        dialogues: per update, over all processes; twice as many, as they are short, while lists are learnt.
        processes: that share an update's dialogues, one thread each.
        seed: of the corpus and of the initial weights.
        hidden_size, num_layers, num_attention_heads: the model's shape.
        matrix_rate, other_rate: peak learning rates of Muon and AdamW.
        output_factor: makes the layers' outputs start and learn larger: the model scales its residual branch by a
            constant made for 28 layers, beside which a few layers of the usual size are hardly heard.
        embedding_std: of the initial word embedding. Rare tokens keep it nearly, and must be told apart to be copied.
        warm_up: number of steps in which the rates rise.
        decay: share of `steps`, at the end, in which they fall.
        last_rate: factor of the rates from which the last steps fall to zero.
        micro_tokens: tokens (padding included) that go through the model at once.
    """

    steps: int = 4500
    first_steps: int = 350
    lists_from: int = 2955
    last_steps: int = 250
    dialogues: int = 64
    processes: int = 2
    seed: int = 0
    hidden_size: int = 256
    num_layers: int = 4
    num_attention_heads: int = 4
    matrix_rate: float = 0.03
    other_rate: float = 0.004
    output_factor: float = 3.0
    embedding_std: float = 0.08
    warm_up: int = 10
    decay: float = 0.75
    last_rate: float = 0.15
    micro_tokens: int = 1024

    @property
    def all_steps(self) -> int:
        """Return the number of updates of a run."""
        return self.steps + self.last_steps

    def stage(self, step: int) -> str:
        """Return the stage of the corpus that a step draws from."""
        if step >= self.steps:
            return LAST
        return FIRST if step < self.first_steps else MAIN if step < self.lists_from else LISTS

    def rate_scale(self, step: int) -> float:
        """Return the factor of the learning rates at a step: up, level, down to `last_rate`, and on to zero."""
        rise = (step + 1) / max(1, self.warm_up)
        if step >= self.steps:
            return min(rise, self.last_rate * (self.all_steps - step) / self.last_steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rise, self.last_rate + (1 - self.last_rate) * fall)


@dataclass(frozen=True)
class Run:
    """Where and how a recipe is run.

    Attributes:
        work: folder for what a resumed run needs.
        start: folder of a checkpoint whose weights to begin with, None for none.
        device: cpu or cuda.
        compiled: whether PyTorch compiles the blocks first.
        save_every: seconds between checkpoints of the run.
        stop_after: pause after this many steps, 0 for none.
    """

    work: Path
    start: Path | None
    device: str
    compiled: bool
    save_every: float
    stop_after: int


# --------------------------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------------------------


def encode(tokenizer: ChatGLMTokenizer, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt (ending in `[gMASK] <sop>`) and of the answer (ending in `<eop>`)."""
    prompt, _ = tokenizer.encode_chat(dialogue.question, dialogue.history)
    return prompt, tokenizer.encode_text(dialogue.answer) + [tokenizer.eos_token_id]


def micro_batches(
    examples: list[tuple[list[int], list[int]]], pad_token_id: int, micro_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """Group examples of similar length and pad them on the left.

    Args:
        examples: (prompt ids, answer ids) pairs.
        pad_token_id: fills the left.
        micro_tokens: most tokens of a group, padding included; a longer example has a group of its own.

    Returns:
        (input ids int64 [b, s], labels int64 [b, s] with -100 outside of the answers) pairs.
    """
    groups: list[list[tuple[list[int], list[int]]]] = []
    for example in sorted(examples, key=lambda example: len(example[0]) + len(example[1])):
        length = len(example[0]) + len(example[1])
        if not groups or length * (len(groups[-1]) + 1) > micro_tokens:
            groups.append([])
        groups[-1].append(example)
    batches = []
    for group in groups:
        longest = max(len(prompt) + len(answer) for prompt, answer in group)
        input_ids = torch.full((len(group), longest), pad_token_id)
        labels = torch.full((len(group), longest), -100)
        for row, (prompt, answer) in enumerate(group):
            input_ids[row, longest - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
            labels[row, longest - len(answer) :] = torch.tensor(answer)
        batches.append((input_ids, labels))
    return batches


def share(examples: list, rank: int, processes: int) -> list:
    """Return a process' part of examples sorted by length: dealt out there and back, so that each gets the same work."""
    rounds = (examples[start : start + processes] for start in range(0, len(examples), processes))
    dealt = (part if number % 2 == 0 else part[::-1] for number, part in enumerate(rounds))
    return [part[rank] for part in dealt if rank < len(part)]


def answer_loss(model: ChatGLMForConditionalGeneration, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy of the answers; logits are computed for their tokens only."""
    hidden_states = model.transformer(input_ids=input_ids).last_hidden_state[:, :-1]  # [b, s - 1, e]
    targets = labels[:, 1:]
    wanted = targets != -100
    logits = model.lm_head(hidden_states[wanted])  # [answer tokens, v]
    return F.cross_entropy(logits.float(), targets[wanted], reduction="sum")


# --------------------------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------------------------


def build_model(recipe: Recipe, tokenizer: ChatGLMTokenizer) -> ChatGLMForConditionalGeneration:
    """Return a freshly initialised model."""
    config = ChatGLMConfig(
        vocab_size=math.ceil(tokenizer.vocab_size / 64) * 64,
        hidden_size=recipe.hidden_size,
        num_layers=recipe.num_layers,
        num_attention_heads=recipe.num_attention_heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
        gmask_token_id=tokenizer.gmask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_sequence_length=LONGEST_DIALOGUE,
    )
    torch.manual_seed(recipe.seed)
    model = ChatGLMForConditionalGeneration(config).float()
    nn.init.normal_(model.get_input_embeddings().weight, std=recipe.embedding_std)
    for name, parameter in model.transformer.layers.named_parameters():
        if parameter.dim() == 2:
            size = recipe.output_factor if name.endswith(OUTPUTS) else 1.0
            nn.init.normal_(parameter, std=size * parameter.shape[1] ** -0.5)
    return model


def take_weights(model: ChatGLMForConditionalGeneration, start: Path) -> None:
    """Give the model the weights of a checkpoint.

    Raises:
        ValueError: the checkpoint has another shape.
    """
    found = ChatGLMForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    shapes = [{name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (found, model)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{start} has another shape than the recipe; give its --hidden-size and --num-layers")
    model.load_state_dict(found.state_dict())


def share_gradients(model: nn.Module, totals: Tensor) -> Tensor:
    """Sum the gradients and `totals` (loss, tokens) over all processes; return the summed totals."""
    if not dist.is_initialized():
        return totals
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    flat = torch.cat([gradient.flatten() for gradient in gradients] + [totals])
    dist.all_reduce(flat)
    *summed, totals = flat.split([gradient.numel() for gradient in gradients] + [len(totals)])
    for gradient, value in zip(gradients, summed, strict=True):
        gradient.copy_(value.view_as(gradient))
    return totals


# --------------------------------------------------------------------------------------------------------------------
# Run
# --------------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and move the file to its place, so that a kill never leaves half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        temporary = Path(file.name)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_vocabulary(work: Path, seed: int, start: Path | None = None) -> Path:
    """Train the vocabulary, or copy that of the checkpoint to start from, unless it is there; return its path.

    Raises:
        ValueError: the one that is there is not that of the checkpoint to start from.
    """
    path = work / VOCABULARY
    if path.exists() and start is not None and path.read_bytes() != (start / VOCABULARY).read_bytes():
        raise ValueError(f"{path} is not the vocabulary of {start}; remove it, or give another --output")
    if not path.exists() and start is not None:
        write_atomically(path, lambda temporary: shutil.copyfile(start / VOCABULARY, temporary))
    elif not path.exists():
        print("training the vocabulary …", flush=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(train_vocabulary(seed)))
    return path


def load_state(work: Path, recipe: Recipe) -> dict | None:
    """Return the state of an earlier run, or None where there is none.

    Raises:
        ValueError: it was written by another recipe.
    """
    path = work / STATE
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["recipe"] != asdict(recipe):
        different = {
            key: (state["recipe"].get(key), value)
            for key, value in asdict(recipe).items()
            if state["recipe"].get(key) != value
        }
        raise ValueError(
            f"{path} belongs to a run with another recipe (there, here): {different}; give the same options again, or "
            f"remove {path} to start anew"
        )
    return state


def train(rank: int, recipe: Recipe, run: Run, port_file: str) -> None:
    """Train as one of `recipe.processes` processes; process 0 shows the progress and writes the files.

    Raises:
        ValueError: the state in `work` is of another recipe, or the checkpoint to start from has another shape.
    """
    if run.device == "cpu":
        torch.set_num_threads(1 if recipe.processes > 1 else min(2, os.cpu_count() or 1))
    if recipe.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=recipe.processes)
    half = run.device != "cpu" or cpu_supports_bfloat16()  # a CPU that only emulates bfloat16 is 17 times slower in it
    tokenizer = ChatGLMTokenizer(str(run.work / VOCABULARY), num_image_tokens=0)
    model = build_model(recipe, tokenizer)
    if run.start is not None:
        take_weights(model, run.start)
    model = model.to(run.device).train()
    if run.compiled:
        for layer in model.transformer.layers:
            layer.compile(dynamic=True)
    matrix_dtype = torch.bfloat16 if half else torch.float32
    optimizer = MuonAdamW(model, recipe.matrix_rate, recipe.other_rate, recipe.output_factor, matrix_dtype)
    losses: list[float] = []
    seconds = 0.0
    state = load_state(run.work, recipe)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses, seconds = state["losses"], state["seconds"]
    started = saved = time.monotonic()
    progress = tqdm(
        total=recipe.all_steps, initial=len(losses), disable=rank > 0, unit="step", smoothing=0.05, mininterval=2
    )
    last = recipe.all_steps if run.stop_after == 0 else min(recipe.all_steps, run.stop_after)
    while len(losses) < last:
        step = len(losses)
        stage = recipe.stage(step)
        count = recipe.dialogues * (2 if stage == LISTS else 1)
        dialogues = draw_dialogues(recipe.seed, step, count, stage=stage)
        examples = sorted((encode(tokenizer, dialogue) for dialogue in dialogues), key=lambda e: len(e[0]) + len(e[1]))
        totals = torch.zeros(2, device=run.device)
        batches = micro_batches(share(examples, rank, recipe.processes), tokenizer.pad_token_id, recipe.micro_tokens)
        # For sequences this short the plain attention's backward pass is faster than the fused one's. In one context the
        # weights are rounded to bfloat16 once a step.
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast(torch.device(run.device).type, dtype=torch.bfloat16, enabled=half),
        ):
            for input_ids, labels in batches:
                loss = answer_loss(model, input_ids.to(run.device), labels.to(run.device))
                loss.backward()
                totals += torch.stack([loss.detach(), (labels != -100).sum().to(run.device)])
        totals = share_gradients(model, totals)
        for parameter in model.parameters():
            parameter.grad /= totals[1]
        # The tied embedding's gradient is spiky while the model is new.
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(recipe.rate_scale(step))
        for parameter in model.parameters():
            parameter.grad = None
        losses.append((totals[0] / totals[1]).item())
        if not math.isfinite(losses[-1]):
            raise ArithmeticError(f"the loss of step {step} is {losses[-1]}; lower matrix_rate or other_rate")
        progress.update()
        progress.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}", refresh=False)
        now = time.monotonic()
        if rank == 0 and (now - saved > run.save_every or len(losses) == last):
            saved = now
            state = {
                "recipe": asdict(recipe),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "losses": losses,
                "seconds": seconds + now - started,
            }
            write_atomically(run.work / STATE, lambda temporary, state=state: torch.save(state, temporary))
    progress.close()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def run_processes(recipe: Recipe, run: Run) -> None:
    """Train in as many processes as the recipe says; this one is the first."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = (recipe, run, str(Path(directory) / "meeting"))
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=train, args=(rank, *arguments), daemon=True) for rank in range(1, recipe.processes)
        ]
        for process in others:
            process.start()
        train(0, *arguments)
        for process in others:
            process.join()


def save_checkpoint(work: Path, output: Path, recipe: Recipe) -> dict:
    """Write the trained model in half precision, with tokenizer and settings, and return the run's state."""
    state = load_state(work, recipe)
    tokenizer = ChatGLMTokenizer(str(work / VOCABULARY), num_image_tokens=0)
    model = build_model(recipe, tokenizer)
    model.load_state_dict(state["model"])
    # As the published checkpoint's: token ids and nothing else; sampling settings belong to `chat`.
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    with tempfile.TemporaryDirectory() as directory:
        model.half().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        output.mkdir(parents=True, exist_ok=True)
        for file in Path(directory).rglob("*"):
            # The project's own folder holds the code already, and that is the code to keep.
            if file.is_file() and (file.suffix in DATA_SUFFIXES or output.resolve() != ROOT / "chatglm"):
                target = output / file.relative_to(directory)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
    return state


def draw_loss_curve(losses: list[float], path: Path) -> None:
    """Draw the loss over the steps, each step and a running mean."""
    from matplotlib.figure import Figure  # only the recipe needs it

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    mean, means = losses[0], []
    for loss in losses:
        mean = 0.95 * mean + 0.05 * loss
        means.append(mean)
    axes.plot(losses, color="#b8cbe6", linewidth=0.8, label="step")
    axes.plot(means, color="#1f4e9c", linewidth=1.6, label="running mean")
    axes.set(
        xlabel="step",
        ylabel="cross entropy of an answer token (nats)",
        yscale="log",
        title="Training of the mini checkpoint",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse the command line and run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "chatglm", help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="folder for what a resumed run needs (default: .training in OUTPUT)")
    parser.add_argument("--start", type=Path, help="folder of a checkpoint whose weights and vocabulary to begin with")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the blocks: a minute, then steps are faster")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints of the run")
    parser.add_argument("--stop-after", type=int, default=0, help="pause after this many steps, 0 for none")
    parser.add_argument("--cases", type=int, default=100, help="unseen cases per skill for the evaluation, 0 for none")
    parser.add_argument(
        "--picture",
        type=Path,
        help="loss curve (default: loss.png in OUTPUT, beside this file for the embedded checkpoint)",
    )
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    if arguments.device != "cpu" and recipe.processes > 1:
        parser.error(f"--device {arguments.device} needs --processes 1, got {recipe.processes}")
    work = arguments.work or arguments.output / ".training"
    run = Run(
        work,
        arguments.start,
        arguments.device,
        arguments.compile,
        arguments.save_every,
        arguments.stop_after,
    )
    work.mkdir(parents=True, exist_ok=True)
    (work / ".gitignore").write_text("*\n")
    try:
        prepare_vocabulary(work, recipe.seed, arguments.start)
        run_processes(recipe, run)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last checkpoint")
    if arguments.stop_after and arguments.stop_after < recipe.all_steps:
        return
    state = save_checkpoint(work, arguments.output, recipe)
    print(f"trained {recipe.all_steps} steps in {state['seconds'] / 60:.1f} minutes", flush=True)
    embedded = arguments.output.resolve() == ROOT / "chatglm"
    picture = arguments.picture or (Path(__file__).parent if embedded else arguments.output) / "loss.png"
    draw_loss_curve(state["losses"], picture)
    write_atomically(
        work / "losses.json",
        lambda temporary: temporary.write_text(json.dumps([round(loss, 4) for loss in state["losses"]])),
    )
    if arguments.cases:
        from .evaluate import evaluate, table

        results = evaluate(arguments.output, arguments.cases, seed=recipe.seed + 1)
        print(table(results), flush=True)


if __name__ == "__main__":
    main()
