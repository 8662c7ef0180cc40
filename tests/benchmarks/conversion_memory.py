"""Measure the peak memory of quantising a checkpoint of ChatGLM-6B's shape from folder to folder.

    python -m tests.benchmarks.conversion_memory FOLDER [--num_layers 28] [--format bin|safetensors] [--bits 4]

Writes a half-precision checkpoint of random weights in 8 shards into FOLDER (13 GB at 28 layers), converts it in a
fresh process into a folder beside it (4 GB at 4 bits), and prints that process' peak resident memory, pages of mapped
files included (on Linux). `--calibration_tokens N` calibrates on random dialogues of N tokens together.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.load_memory import write_checkpoint
from tests.conftest import ROOT

CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from tqdm import tqdm
from loading.calibration import Calibration
from loading.conversion import convert_checkpoint
from tests.benchmarks.peak_memory import PeakMemory

source, target = sys.argv[2:4]
bits, embeddings, tokens = int(sys.argv[4]), sys.argv[5] == "True", int(sys.argv[6])
memory, calibration = PeakMemory(), None
before = memory.resident
if tokens:
    prompt_end = torch.tensor([130001, 130004])  # [gMASK] <sop>
    texts = torch.randint(5, 100000, (-(-tokens // 256), 254))
    calibration = Calibration([torch.cat([text[:200], prompt_end, text[200:]]) for text in texts])
size = convert_checkpoint(source, target, bits, embeddings, calibration, tqdm)
print("RESULT", size, memory.resident, before)
"""


def main() -> None:
    """Write, convert, print, and remove what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the checkpoint")
    parser.add_argument("--num_layers", type=int, default=28, help="layers (default 28, the real depth)")
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin", help="of the shards (default bin)")
    parser.add_argument("--bits", type=int, choices=[4, 8], default=4, help="of a weight (default 4)")
    parser.add_argument("--quantize_embeddings", action="store_true", help="the word embedding, too")
    parser.add_argument("--calibration_tokens", type=int, default=0, help="0, the default, rounds to nearest")
    parser.add_argument("--keep", action="store_true", help="leave the float checkpoint there")
    arguments = parser.parse_args()
    if not (arguments.folder / "config.json").exists():
        write_checkpoint(arguments.folder, arguments.num_layers, arguments.format)
    target = arguments.folder.with_name(f"{arguments.folder.name}-int{arguments.bits}")
    start = time.perf_counter()
    words = [
        ROOT,
        arguments.folder,
        target,
        arguments.bits,
        arguments.quantize_embeddings,
        arguments.calibration_tokens,
    ]
    process = subprocess.run(
        [sys.executable, "-c", CONVERT, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    size, peak, before = map(float, process.stdout.split("RESULT")[1].split())
    print(f"{size / 1e9:.2f} GB of weights written in {time.perf_counter() - start:.0f} s")
    print(f"peak resident memory {peak / 1e9:.2f} GB, of which {before / 1e9:.2f} GB are Python and its libraries")
    shutil.rmtree(target)
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
