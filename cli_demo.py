"""Chat with ChatGLM-6B in a terminal.

    python cli_demo.py                               the embedded mini checkpoint
    python cli_demo.py --model THUDM/chatglm-6b      the real one; --model also takes a folder
    python cli_demo.py < questions.txt               one answer for each line, for scripts

clear empties the history, stop ends the program. Ctrl-C stops an answer; at the prompt it ends the program, as Ctrl-D
does.
"""

import locale
import os
import re
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transformers import PreTrainedModel, PreTrainedTokenizer, set_seed

from chatglm import InvalidLogitsError, PromptTooLongError
from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.command_line import Text, flag
from loading.load import load_model_and_tokenizer

TEXTS = {
    "zh": {
        "welcome": "欢迎使用 ChatGLM-6B 模型，输入内容即可进行对话，clear 清空对话历史，stop 终止程序",
        "user": "用户：",
        "model": "ChatGLM-6B：",
        "cleared": "对话历史已清空",
        "interrupted": "（回答已中断）",
        "dropped": "（对话已超出长度上限，最早的几轮不再计入上下文；此后不再提示）",
        "too_long": "问题有 {} 个 token，超过了总长度上限 {}，请缩短问题，或调大 --max-length",
        "error": "错误：{}",
    },
    "en": {
        "welcome": "Welcome to ChatGLM-6B. Type to chat; clear empties the history, stop ends the program",
        "user": "User: ",
        "model": "ChatGLM-6B: ",
        "cleared": "The history is empty",
        "interrupted": "(answer interrupted)",
        "dropped": "(The chat has outgrown its length limit: from now on its oldest rounds are left out)",
        "too_long": "The question has {} tokens, the limit is {}: please reduce the length, or raise --max-length",
        "error": "Error: {}",
    },
}
# What `process_response` may still change when more text comes: half-width punctuation, the date's placeholder.
UNSETTLED_END = re.compile(r"(?:[,!:;?]|\[|\[\[(?:训(?:练(?:时(?:间\]?)?)?)?)?)\Z")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would move the cursor or recolour the terminal
ANSWER_ERRORS = (
    PromptTooLongError,
    InvalidLogitsError,
    RuntimeError,
    MemoryError,
)  # RuntimeError: PyTorch's out of memory


@dataclass
class ChatArguments:
    """What only the terminal chat has."""

    title: ClassVar[Text] = Text("terminal", "终端")

    lang: Literal["zh", "en"] = flag("zh", Text("language of the interface and of this help", "界面和本帮助的语言"))


class Chat:
    """A dialogue whose answers are written to standard output as they are generated.

    Args:
        model, tokenizer: as `load_model_and_tokenizer` returns them.
        keywords: for the model's `stream_chat`.
        texts: one language of TEXTS.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizer, keywords: dict[str, Any], texts: dict[str, str]
    ) -> None:
        self.model, self.tokenizer, self.keywords, self.texts = model, tokenizer, keywords, texts
        self.clear()

    def clear(self) -> None:
        """Forget all rounds."""
        self.history: list[tuple[str, str]] = []
        self.told_of_dropped_rounds = False

    def ask(self, query: str) -> None:
        """Write the answer to a question and keep the round; of an answer that Ctrl-C cuts short, what was said.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed during the answer.
            ANSWER_ERRORS: there is no answer; the history is as it was.
        """
        response, written, dropped_rounds = "", 0, []
        stream = self.model.stream_chat(
            self.tokenizer, query, self.history, on_dropped_rounds=dropped_rounds.append, **self.keywords
        )
        try:
            with closing(stream):
                for response, self.history in stream:
                    unsettled = UNSETTLED_END.search(response)
                    settled = unsettled.start() if unsettled else len(response)
                    if settled > written:
                        piece, written = response[written:settled], settled
                        write(piece)  # last, so that an interruption while it is flushed writes nothing twice
        finally:
            write(response[written:] + "\n")
            self.history = self.history[sum(dropped_rounds) :]
        if dropped_rounds and not self.told_of_dropped_rounds:
            print(self.texts["dropped"], file=sys.stderr)
            self.told_of_dropped_rounds = True

    def describe(self, error: Exception) -> str:
        """Return what a person is told of an error."""
        if isinstance(error, PromptTooLongError):
            return self.texts["too_long"].format(error.tokens, error.limit)
        return self.texts["error"].format(error)


def write(text: str) -> None:
    """Write text to standard output at once; on a terminal without control characters."""
    sys.stdout.write(CONTROL_CHARACTERS.sub("", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def converse(chat: Chat) -> None:
    """Talk with a person at a terminal until `stop`, Ctrl-D, or Ctrl-C at the prompt."""
    enable_line_editing()
    print(chat.texts["welcome"])
    while True:
        print()
        try:
            query = input(chat.texts["user"]).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if query == "stop":
            return
        if query == "clear":
            chat.clear()
            print(chat.texts["cleared"])
        elif query:
            write("\n" + chat.texts["model"])
            try:
                chat.ask(query)
            except KeyboardInterrupt:
                print(chat.texts["interrupted"])
            except ANSWER_ERRORS as error:
                print(chat.describe(error))


def answer_lines(chat: Chat) -> int:
    """Answer the questions on standard input, one a line, with nothing but the answers on standard output.

    Returns:
        The exit status: 1 if a question had no answer (standard error says why), else 0.
    """
    status = 0
    for line in sys.stdin:
        query = line.lstrip("\ufeff").strip()  # a byte order mark, as editors on Windows write it
        if query == "stop":
            break
        if query == "clear":
            chat.clear()
        elif query:
            try:
                chat.ask(query)
            except ANSWER_ERRORS as error:
                print(chat.describe(error), file=sys.stderr)
                status = 1
    return status


def enable_line_editing() -> None:
    """Let `input` edit wide characters, recall earlier questions and take a paste of several lines as one question."""
    try:
        import readline
    except ImportError:  # Windows, whose terminal edits lines by itself
        return
    # readline takes the encoding from the environment; in an ASCII locale it would edit bytes instead of characters
    if os.name == "posix" and locale.nl_langinfo(locale.CODESET).upper() != "UTF-8":
        for name in ("C.UTF-8", "en_US.UTF-8"):
            with suppress(locale.Error):
                os.environ["LC_ALL"] = locale.setlocale(locale.LC_CTYPE, name)
                break
    readline.parse_and_bind("set enable-bracketed-paste on")


def main() -> int:
    """Run the chat and return the exit status."""
    model_arguments, sampling, arguments = parse_arguments(__doc__, ModelArguments, SamplingArguments, ChatArguments)
    model, tokenizer = load_model_and_tokenizer(model_arguments)
    if sampling.seed is not None:
        set_seed(sampling.seed)
    chat = Chat(model, tokenizer, sampling.chat_keywords(), TEXTS[arguments.lang])
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return answer_lines(chat)
    converse(chat)
    return 0


if __name__ == "__main__":
    run_main(main)
