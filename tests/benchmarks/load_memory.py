"""Measure the peak memory of loading a checkpoint of ChatGLM-6B's shape: half precision, 8 shards, random weights.

    python -m tests.benchmarks.load_memory FOLDER [--num_layers 28] [--format bin|safetensors] [--keep]

Writes the checkpoint into FOLDER (13 GB at 28 layers), loads it in a fresh process, and prints that process' peak
resident memory beside the size of the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from tests.conftest import ROOT

LOAD = """
import sys, time
sys.path.insert(0, sys.argv[2])
import torch, chatglm
from transformers import AutoModel
from tests.benchmarks.peak_memory import PeakMemory

memory, start = PeakMemory(), time.perf_counter()
model = AutoModel.from_pretrained(sys.argv[1])
seconds = time.perf_counter() - start
weights = sum({p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}.values())
touched = sum(float(p.flatten()[::4096].float().sum()) for p in model.parameters())
print("RESULT", weights, memory.resident, memory.own, seconds)
"""


def special_ids(tokenizer: ChatGLMTokenizer) -> dict[str, int]:
    """Return a vocabulary's special token ids, by their names in a configuration."""
    names = ("bos_token_id", "eos_token_id", "gmask_token_id", "mask_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def write_checkpoint(folder: Path, num_layers: int, file_format: str, shards: int = 8, **config_keys) -> None:
    """Write a checkpoint with the published one's names, shapes and shard layout, and random half-precision weights.

    `config_keys` replace what the configuration says else: smaller shapes, another vocabulary's ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = ChatGLMConfig(num_layers=num_layers, dtype="float16", **config_keys)
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    suffix = {"bin": "bin", "safetensors": "safetensors"}[file_format]
    stem = {"bin": "pytorch_model", "safetensors": "model"}[file_format]
    if file_format == "safetensors":
        del shapes["lm_head.weight"]
    names = list(shapes)
    weight_map, generator = {}, torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 24, generator=generator).mul_(0.02).half()
    for number in tqdm(range(shards), desc=f"writing {folder}", unit="shard"):
        shard = {}
        for name in names[number * len(names) // shards : (number + 1) * len(names) // shards]:
            count = torch.Size(shapes[name]).numel()
            values = noise.repeat(-(-count // noise.numel()))[:count].view(shapes[name])
            shard[name] = values + 1 if name.endswith("layernorm.weight") else values.clone()
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}"
        weight_map |= dict.fromkeys(shard, file)
        if file_format == "bin":
            torch.save(shard, folder / file)
        else:
            from safetensors.torch import save_file

            save_file(shard, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)


def main() -> None:
    """Write, load, print, and remove what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the checkpoint")
    parser.add_argument("--num_layers", type=int, default=28, help="layers (default 28, the real depth)")
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin", help="of the shards (default bin)")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    arguments = parser.parse_args()
    if not (arguments.folder / "config.json").exists():
        write_checkpoint(arguments.folder, arguments.num_layers, arguments.format)
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(arguments.folder), str(ROOT)], stdout=subprocess.PIPE, text=True, check=True
    )
    weights, peak, own, seconds = map(float, process.stdout.split("RESULT")[1].split())
    print(f"weights {weights / 1e9:.2f} GB; peak resident memory {peak / 1e9:.2f} GB, {peak / weights:.3f} times the")
    print(f"weights (without pages of mapped files {own / 1e9:.2f} GB); loaded in {seconds:.1f} s", end="")
    print(f" ({time.perf_counter() - start:.1f} s with Python's start)")
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
