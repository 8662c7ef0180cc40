"""A dialogue in a terminal, or one answer a line for scripts."""

import locale
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizer

from chatglm import InvalidLogitsError, PromptTooLongError
from loading.command_line import text_width

from .texts import too_long

STOP_WORDS = ("stop", "exit", "quit")
PROMPT_COLOUR, LABEL_COLOUR = "36", "32"  # cyan, green
LONGEST_WORD = 20  # columns; a longer one is broken where the line ends
WORD = re.compile(r"[!-~\u00a1-\u024f]+")  # is not broken: Latin letters, digits, their marks
PARTS = re.compile(rf"{WORD.pattern}|[^!-~\u00a1-\u024f]")
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
        model_limit: tokens that the model takes at most, prompt and answer together, if it is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizer,
        keywords: dict[str, Any],
        texts: dict[str, str],
        model_limit: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.keywords, self.texts = model, tokenizer, keywords, texts
        self.model_limit = model_limit
        self.clear()

    def clear(self) -> None:
        """Forget all rounds."""
        self.history: list[tuple[str, str]] = []
        self.told_of_dropped_rounds = False

    def obey(self, query: str) -> bool | None:
        """Do what a command says; return whether it ends the chat, None for what is a question."""
        command = query.lower()
        if command == "clear":
            self.clear()
        return command in STOP_WORDS if command in ("clear", *STOP_WORDS) else None

    def ask(self, query: str) -> None:
        """Write the answer to a question and keep the round; of an answer that Ctrl-C cuts short, what was said.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed during the answer.
            ANSWER_ERRORS: there is no answer; the history is as it was.
        """
        response, written, dropped_rounds = "", 0, []
        wrap = WordWrap(text_width(self.texts["model"]))
        stream = self.model.stream_chat(
            self.tokenizer, query, self.history, on_dropped_rounds=dropped_rounds.append, **self.keywords
        )
        try:
            with closing(stream):
                for response, self.history in stream:
                    piece, written = response[written:], len(response)
                    # last, so that an interruption while it is flushed writes nothing twice
                    write(wrap.add(piece, terminal_width()))
        finally:
            write(wrap.add(response[written:], terminal_width()) + wrap.kept + "\n")
            self.history = self.history[sum(dropped_rounds) :]
        if dropped_rounds and not self.told_of_dropped_rounds:
            print(self.texts["dropped"], file=sys.stderr)
            self.told_of_dropped_rounds = True

    def describe(self, error: Exception) -> str:
        """Return what a person is told of an error."""
        if isinstance(error, PromptTooLongError):
            return too_long(error, self.texts, self.model_limit)
        return self.texts["error"].format(error)


class WordWrap:
    """Break lines of a text that comes in pieces between its words; a terminal alone would break in them.

    A word is kept back until its end only where it might not fit: if it begins in a line's last columns.

    Args:
        column: where the first piece begins.

    Attributes:
        kept: the word that is kept back.
    """

    def __init__(self, column: int) -> None:
        self.column, self.kept = column, ""

    def add(self, piece: str, width: float) -> str:
        """Return what is to be written now; `width` is the terminal's, in columns."""
        parts, written = PARTS.findall(self.kept + piece), ""
        self.kept = ""
        for number, part in enumerate(parts, start=1):
            size = 0 if part == "\n" else text_width(part)
            is_word = WORD.fullmatch(part) and size < LONGEST_WORD and self.column > width - LONGEST_WORD
            if is_word and number == len(parts):
                self.kept = part
                break
            end = self.column + size
            if end > width and (is_word or part == " "):
                part, end = ("\n", 0) if part == " " else ("\n" + part, size)
            elif end > width:  # the terminal breaks it
                end = size if len(part) == 1 else end % width
            written, self.column = written + part, 0 if part == "\n" else end
        return written


def terminal_width() -> float:
    """Return the columns of the terminal that standard output is; of anything else, that there are enough."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf


def write(text: str) -> None:
    """Write text to standard output at once; on a terminal without control characters."""
    sys.stdout.write(CONTROL_CHARACTERS.sub("", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def converse(chat: Chat) -> None:
    """Talk with a person at a terminal until `stop`, Ctrl-D, or Ctrl-C at the prompt."""
    invisible = ("\x01", "\x02") if enable_line_editing() else ("", "")
    prompt = coloured(chat.texts["user"], PROMPT_COLOUR, *invisible)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that echo is on again, whatever ends the program
    print(chat.texts["welcome"])
    while True:
        print()
        try:
            query = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        ends = chat.obey(query)
        if ends:
            return
        if ends is False:
            print(chat.texts["cleared"])
        elif query:
            try:
                with without_echo():
                    print("\n" + coloured(chat.texts["model"], LABEL_COLOUR), end="", flush=True)
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
        ends = chat.obey(query)
        if ends:
            break
        if ends is None and query:
            try:
                chat.ask(query)
            except ANSWER_ERRORS as error:
                print(chat.describe(error), file=sys.stderr)
                status = 1
    return status


def coloured(text: str, colour: str, begin: str = "", end: str = "") -> str:
    """Return a text in a colour where standard output is a terminal that shows it and NO_COLOR is not set.

    Args:
        text, colour: the text, and the number of the colour.
        begin, end: what tells `readline` that what is between takes no columns.
    """
    plain = os.name != "posix" or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    if plain or not sys.stdout.isatty():
        return text
    return f"{begin}\x1b[{colour}m{end}{text}{begin}\x1b[0m{end}"


@contextmanager
def without_echo() -> Iterator[None]:
    """Keep keys that are pressed meanwhile off the screen; they are there when the next question is typed."""
    if not (os.name == "posix" and sys.stdin.isatty()):
        yield
        return
    import termios  # not on Windows

    before = termios.tcgetattr(sys.stdin)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def enable_line_editing() -> bool:
    """Let `input` edit wide characters, recall earlier questions and take a paste of several lines as one question.

    Returns:
        Whether `readline` does that.
    """
    try:
        import readline
    except ImportError:  # Windows, whose terminal edits lines by itself
        return False
    # readline takes the encoding from the environment; in an ASCII locale it would edit bytes instead of characters
    if os.name == "posix" and locale.nl_langinfo(locale.CODESET).upper() != "UTF-8":
        for name in ("C.UTF-8", "en_US.UTF-8"):
            with suppress(locale.Error):
                os.environ["LC_ALL"] = locale.setlocale(locale.LC_CTYPE, name)
                break
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
