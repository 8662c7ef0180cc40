"""Quantise a checkpoint of ChatGLM-6B into a new folder, which then loads without the float one's memory.

    python quantize.py THUDM/chatglm-6b chatglm-6b-int4
    python quantize.py THUDM/chatglm-6b chatglm-6b-int4 --calibration dialogues.jsonl

Weights are converted block by block. With calibration, integers are chosen so that the layers' outputs on the given
dialogues change least, which loses less than rounding does; lines are {"prompt": …, "response": …, "history": […]}.
Stop with Ctrl-C: nothing is left behind.
"""

from dataclasses import MISSING, dataclass
from functools import partial
from typing import ClassVar

from loading.arguments import CALIBRATION_TOKENS, check_device, model_bits, parse_arguments, run_main
from loading.checkpoint import (
    check_checkpoint,
    check_vocabulary,
    find_checkpoint,
    find_folder,
    format_bytes,
    refusals,
)
from loading.command_line import Text, flag

CHINESE = """把 ChatGLM-6B 的浮点模型量化到新文件夹，此后载入不再需要浮点模型的内存。

    python quantize.py THUDM/chatglm-6b chatglm-6b-int4
    python quantize.py THUDM/chatglm-6b chatglm-6b-int4 --calibration dialogues.jsonl

逐层转换权重。给出校准对话时，选取使各层在这些对话上的输出变化最小的整数，损失小于就近取整；文件每行为
{"prompt": …, "response": …, "history": […]}。Ctrl-C 中断，不留下任何文件。
"""


@dataclass
class QuantizeArguments:
    """What is converted, and how."""

    title: ClassVar[Text] = Text("conversion", "转换")

    source: str = flag(
        MISSING, Text("folder of the float checkpoint, or its name on the Hugging Face hub", "浮点模型的文件夹或名称")
    )
    target: str = flag(MISSING, Text("folder to make", "要生成的文件夹"))
    bits: int = flag(4, Text("of a weight: 4 or 8", "每个权重的位数：4 或 8"), metavar="BITS")
    quantize_embeddings: bool = flag(
        False, Text("quantise the word embedding and the output layer, too", "词嵌入和输出层也量化")
    )
    calibration: str | None = flag(
        None,
        Text("file of sample dialogues to calibrate on", "校准用的对话文件"),
        shown=Text("none: round to nearest", "无：就近取整"),
        metavar="FILE",
    )
    calibration_tokens: int = flag(
        CALIBRATION_TOKENS, Text("tokens of the dialogues that are used; 1 and up", "使用其中多少 token；1 以上")
    )
    device: str = flag(
        "auto",
        Text("where to calibrate: auto, cpu, cuda, cuda:N or mps", "在哪里校准：auto、cpu、cuda、cuda:N 或 mps"),
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        model_bits.check_bits(self.bits, "bits")
        check_device(self.device)
        if self.calibration_tokens < 1:
            raise ValueError(f"calibration_tokens must be at least 1, got {self.calibration_tokens}")


def convert(arguments: QuantizeArguments) -> int:
    """Convert as the command line asks; return the bytes of the weights that were written.

    Raises:
        LoadError: whatever is wrong with the checkpoint, the dialogues, the device or the disk.
    """
    if (folder := find_folder(arguments.source)) is not None:
        check_checkpoint(folder)
    # these import PyTorch, which takes seconds: after what can be refused at once
    from tqdm import tqdm
    from transformers.utils import logging

    from chatglm import ChatGLMConfig, ChatGLMTokenizer
    from loading.calibration import Calibration, read_dialogues
    from loading.conversion import convert_checkpoint, signals_interrupt
    from loading.devices import choose_device

    logging.set_verbosity_error()
    source = find_checkpoint(arguments.source)
    check_checkpoint(source)
    with refusals(f"cannot quantise {source}"), signals_interrupt():
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


def main() -> None:
    """Parse the command line, convert, and say what was written."""
    (arguments,) = parse_arguments(Text(__doc__, CHINESE), QuantizeArguments)
    size = convert(arguments)
    print(f"{arguments.target}: {format_bytes(size)} of weights, {arguments.bits} bits")


if __name__ == "__main__":
    run_main(main)
