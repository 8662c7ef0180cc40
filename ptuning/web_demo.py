"""Chat in a web browser with a fine-tuned model: the page of ../web_demo.py, with the same flags.

    python ptuning/web_demo.py --model THUDM/chatglm-6b --ptuning-checkpoint output/checkpoint-3000

--ptuning-checkpoint is the folder that P-Tuning v2 wrote; a model that was fine-tuned as a whole is given as --model.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import web_demo  # noqa: E402
from loading.arguments import run_main  # noqa: E402

if __name__ == "__main__":
    run_main(lambda: web_demo.main(__doc__))
