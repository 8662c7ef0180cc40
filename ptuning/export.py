"""Write a base and its adapter as one checkpoint folder: LoRA merged into a float base, a prefix beside any base.

    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --export_dir merged
    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --quantize 4 --export_dir small

The folder loads with `--model` in every script. A merged LoRA model can be quantised afterwards.
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

各脚本都能以 --model 载入该文件夹。合并后的 LoRA 模型可以再量化。
"""


@dataclass
class ExportArguments:
    """Where the folder goes."""

    title: ClassVar[Text] = Text("export", "导出")

    export_dir: str | None = flag(
        None, Text("folder to write; must not exist", "要写入的文件夹，须尚不存在"), metavar="PATH"
    )


def main() -> int | None:
    """Load, merge, save."""
    model_arguments, export = parse_arguments(Text(__doc__, CHINESE), ModelArguments, ExportArguments)
    if export.export_dir is None or Path(export.export_dir).exists():
        raise LoadError(f"--export-dir must name a new folder, got {export.export_dir or 'none'}")
    model_arguments.announce()
    from loading import adapters  # imports PyTorch, which takes seconds
    from loading.load import load_model_and_tokenizer

    model, tokenizer = load_model_and_tokenizer(model_arguments)
    try:
        if adapters.lora_layers(model):
            adapters.merge_lora(model)
        adapters.save_whole(model, tokenizer, Path(export.export_dir))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot write {export.export_dir}: {shorten(error)}") from error
    print(f"wrote {export.export_dir}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
