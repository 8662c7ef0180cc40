"""Write a base and its adapter as one checkpoint folder: LoRA merged into a float base, a prefix beside any base.

    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --export_dir merged
    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --quantize 4 --export_dir small

    python ptuning/export.py --ptuning_checkpoint output/adgen --layout original --export_dir theirs

The folder loads with `--model` in every script; LoRA with `--quantize` is merged first, then quantised. With `--layout
original` it holds a P-Tuning v2 prefix alone, as the original's code reads it (`pytorch_model.bin`).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a script: its own folder, whose names are short, gives way to the project's
    sys.path[0] = str(ROOT)

from loading.arguments import ModelArguments, parse_arguments, run_main  # noqa: E402
from loading.checkpoint import LoadError, shorten  # noqa: E402
from loading.command_line import Text, flag  # noqa: E402

CHINESE = """把基座与适配器写成一个模型文件夹：LoRA 合并进浮点基座，前缀放在任意基座旁。

    python ptuning/export.py --model THUDM/chatglm-6b --ptuning-checkpoint output/adgen --export-dir merged
    python ptuning/export.py --model THUDM/chatglm-6b --ptuning-checkpoint output/adgen --quantize 4 --export-dir small

    python ptuning/export.py --ptuning-checkpoint output/adgen --layout original --export-dir theirs

各脚本都能以 --model 载入该文件夹；LoRA 加 --quantize 时先合并、再量化。加 --layout original 时只写 P-Tuning v2 前缀，
格式与原版代码读取的相同（pytorch_model.bin）。
"""


@dataclass
class ExportArguments:
    """Where the folder goes."""

    title: ClassVar[Text] = Text("export", "导出")

    export_dir: str | None = flag(
        None, Text("folder to write; must not exist", "要写入的文件夹，须尚不存在"), metavar="PATH"
    )
    layout: str = flag(
        "whole",
        Text(
            "whole: base and adapter; original: the prefix alone, for the original's code",
            "whole：基座与适配器；original：仅前缀，供原版代码使用",
        ),
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        if self.layout not in ("whole", "original"):
            raise ValueError(f"layout must be whole or original, got {self.layout}")


def main() -> int | None:
    """Load, merge, quantise, save."""
    model_arguments, export = parse_arguments(Text(__doc__, CHINESE), ModelArguments, ExportArguments)
    if export.export_dir is None or Path(export.export_dir).exists():
        raise LoadError(f"--export-dir must name a new folder, got {export.export_dir or 'none'}")
    model_arguments.announce()
    from loading import adapters  # imports PyTorch, which takes seconds
    from loading.load import load_model_and_tokenizer

    bits, folder = model_arguments.quantization_bit, Path(export.export_dir)
    if model_arguments.ptuning_checkpoint and adapters.is_lora(Path(model_arguments.ptuning_checkpoint).expanduser()):
        model_arguments.quantization_bit = None  # a product cannot be added to rounded weights
    model, tokenizer = load_model_and_tokenizer(model_arguments)
    try:
        if adapters.lora_layers(model):
            adapters.merge_lora(model)
            if bits:
                model.quantize(bits)
        if export.layout == "original":
            if not hasattr(model.transformer, "prefix_encoder"):
                raise LoadError("--layout original is for a P-Tuning v2 prefix: give one as --ptuning-checkpoint")
            adapters.write_original_prefix(folder, model)
        else:
            adapters.save_whole(model, tokenizer, folder)
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot write {export.export_dir}: {shorten(error)}") from error
    print(f"wrote {export.export_dir}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
