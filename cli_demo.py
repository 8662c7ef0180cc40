"""Chat with ChatGLM-6B in a terminal.

    python cli_demo.py                               the embedded mini checkpoint
    python cli_demo.py --model THUDM/chatglm-6b      the real one; --model also takes a folder
    python cli_demo.py < questions.txt               one answer for each line, for scripts

clear empties the history, stop ends the program. Ctrl-C stops an answer; at the prompt it ends the program, as Ctrl-D
does.
"""

import sys

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.command_line import Text
from pages.arguments import TerminalArguments
from pages.texts import TERMINAL_TEXTS

CHINESE = """在终端里与 ChatGLM-6B 对话。

    python cli_demo.py                               自带的迷你模型
    python cli_demo.py --model THUDM/chatglm-6b      真正的模型；--model 也可以是文件夹
    python cli_demo.py < questions.txt               每行一个回答，供脚本使用

clear 清空对话历史，stop 终止程序。Ctrl-C 中断回答；在提示符处则与 Ctrl-D 一样终止程序。
"""


def main() -> int:
    """Run the chat and return the exit status."""
    model_arguments, sampling, arguments = parse_arguments(
        Text(__doc__, CHINESE), ModelArguments, SamplingArguments, TerminalArguments
    )
    model_arguments.announce()
    import torch  # these take seconds

    from loading.load import load_model_and_tokenizer
    from pages.terminal import Chat, answer_lines, converse

    model, tokenizer = load_model_and_tokenizer(model_arguments)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    keywords = sampling.chat_keywords() | {"seed": None}  # else each answer would begin with the same random numbers
    chat = Chat(model, tokenizer, keywords, TERMINAL_TEXTS[arguments.lang], model.config.max_sequence_length)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return answer_lines(chat)
    converse(chat)
    return 0


if __name__ == "__main__":
    run_main(main)
