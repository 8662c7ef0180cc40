"""Chat in a web browser with a fine-tuned model: the page of ../web_demo.py, with the same flags.

    python ptuning/web_demo.py --model THUDM/chatglm-6b --ptuning-checkpoint output/checkpoint-3000

--ptuning-checkpoint is the folder that P-Tuning v2 wrote; a model that was fine-tuned as a whole is given as --model.
--pre_seq_len and --prefix_projection of the original's web_demo.sh are taken and not needed: the checkpoint says both.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import web_demo  # noqa: E402
from loading.arguments import run_main  # noqa: E402


def without_prefix_flags(words: list[str]) -> list[str]:
    """Return a command line without the original's flags that describe the prefix; say that they are not needed."""
    flags = re.compile(r"--(pre[_-]seq[_-]len|prefix[_-]projection)(=.*)?")
    kept, skip = [], False
    for word in words:
        if found := flags.fullmatch(word):
            print(f"--{found[1]} is not needed: the checkpoint says it", file=sys.stderr)
        elif not skip or word.startswith("-"):
            kept.append(word)
        skip = found is not None and not found[2]
    return kept


if __name__ == "__main__":
    sys.argv[1:] = without_prefix_flags(sys.argv[1:])
    run_main(lambda: web_demo.main(__doc__))
