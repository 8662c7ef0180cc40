"""Write a base and its adapter as one checkpoint folder: LoRA merged into a float base, a prefix beside any base.

    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --export_dir merged
    python ptuning/export.py --model THUDM/chatglm-6b --ptuning_checkpoint output/adgen --quantize 4 --export_dir small

The folder loads with `--model` in every script. A merged LoRA model can be quantised afterwards.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a script: its own folder, whose names are short, gives way to the project's
    sys.path[0] = str(ROOT)

import adapters  # noqa: E402
import utils  # noqa: E402
from checkpoint import LoadError, shorten  # noqa: E402


@dataclass
class ExportArguments:
    """Where the folder goes."""

    export_dir: str | None = field(default=None, metadata={"help": "folder to write; must not exist"})


def main() -> int | None:
    """Load, merge, save."""
    model_arguments, export = utils.parse_arguments(__doc__, utils.ModelArguments, ExportArguments)
    if export.export_dir is None or Path(export.export_dir).exists():
        raise LoadError(f"--export_dir must name a new folder, got {export.export_dir}")
    model, tokenizer = utils.load_model_and_tokenizer(model_arguments)
    try:
        if adapters.lora_layers(model):
            adapters.merge_lora(model)
        adapters.save_whole(model, tokenizer, Path(export.export_dir))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot write {export.export_dir}: {shorten(error)}") from error
    print(f"wrote {export.export_dir}", file=sys.stderr)


if __name__ == "__main__":
    utils.run_main(main)
