"""A dialogue in a terminal, or one answer a line for scripts."""

import locale
import os
import re
import sys
from contextlib import closing, suppress
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizer

from chatglm import InvalidLogitsError, PromptTooLongError

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would move the cursor or recolour the terminal
ANSWER_ERRORS = (
    PromptTooLongError,
    InvalidLogitsError,
    RuntimeError,
    MemoryError,
)  # RuntimeError: PyTorch's out of memory


class Chat:
    """A dialogue whose answers are written to standard output as they are generated.

    Args:
        model, tokenizer: as `load_model_and_tokenizer` returns them.
        keywords: for the model's `stream_chat`.
        texts: one language of `pages.texts.TERMINAL_TEXTS`.
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
                    piece, written = response[written:], len(response)
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
