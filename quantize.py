"""Quantise a checkpoint of ChatGLM-6B into a new folder, which then loads without the float one's memory.

    python quantize.py THUDM/chatglm-6b chatglm-6b-int4
    python quantize.py THUDM/chatglm-6b chatglm-6b-int4 --calibration dialogues.jsonl

Weights are converted block by block. With calibration, integers are chosen so that the layers' outputs on the given
dialogues change least, which loses less than rounding does; lines are {"prompt": …, "response": …, "history": […]}.
Stop with Ctrl-C: nothing is left behind.
"""

import argparse
from functools import partial
from pathlib import Path

import transformers
from tqdm import tqdm

from chatglm import ChatGLMConfig, ChatGLMTokenizer
from chatglm.calibration import CALIBRATION_TOKENS, Calibration, read_dialogues
from chatglm.conversion import convert_checkpoint
from chatglm.quantization import BITS
from checkpoint import LoadError, check_checkpoint, check_vocabulary, find_checkpoint, shorten
from utils import LOADING_ERRORS, HelpFormatter, choose_device, run_main


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("source", help="folder of the float checkpoint, or its name on the Hugging Face hub")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--bits", type=int, choices=BITS, default=4, help="of a weight")
    parser.add_argument(
        "--quantize-embeddings",
        "--quantize_embeddings",
        action="store_true",
        help="quantise the word embedding and the output layer, too",
    )
    parser.add_argument("--calibration", metavar="FILE", type=Path, help="sample dialogues; without: round to nearest")
    parser.add_argument(
        "--calibration-tokens",
        "--calibration_tokens",
        type=int,
        default=CALIBRATION_TOKENS,
        help="of the dialogues that are used; 1 and up",
    )
    parser.add_argument("--device", default="auto", help="where to calibrate: auto, cpu, cuda, cuda:N or mps")
    return parser


def convert(arguments: argparse.Namespace) -> int:
    """Convert as the command line asks; return the bytes of the weights that were written.

    Raises:
        LoadError: whatever is wrong with the checkpoint, the dialogues, the device or the disk.
    """
    source = find_checkpoint(arguments.source)
    check_checkpoint(source)
    try:
        tokenizer = ChatGLMTokenizer.from_pretrained(source)
        check_vocabulary(source, tokenizer, ChatGLMConfig.from_pretrained(source))
        calibration = None
        if arguments.calibration is not None:
            examples = read_dialogues(arguments.calibration, tokenizer, arguments.calibration_tokens)
            calibration = Calibration(examples, choose_device(arguments.device))
        progress = partial(tqdm, desc=f"quantising to {arguments.bits} bits", unit="block", disable=None)
        return convert_checkpoint(
            source, arguments.target, arguments.bits, arguments.quantize_embeddings, calibration, progress
        )
    except LOADING_ERRORS as error:
        raise LoadError(f"cannot quantise {source}: {shorten(error)}") from error


def main() -> None:
    """Parse the command line, convert, and say what was written."""
    transformers.utils.logging.set_verbosity_error()
    arguments = build_parser().parse_args()
    size = convert(arguments)
    print(f"{arguments.target}: {size / 1e9:.2f} GB of weights, {arguments.bits} bits")


if __name__ == "__main__":
    run_main(main)
