"""Parse a script's command line into dataclasses, and print its help, without importing PyTorch.

A dataclass is a group of flags: each field is one, made by `flag`, and `title` is the group's heading. A flag is the
field's name with dashes; underscores are understood, too. Help is in Chinese or English, after `--lang` or the locale.
"""

import argparse
import dataclasses
import difflib
import locale
import os
import re
import shutil
import sys
import types
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any

PARSER_WORDS = {
    "en": {"usage": "usage: ", "flags": "flags", "others": "other", "help": "show this and end"},
    "zh": {"usage": "用法：", "flags": "选项", "others": "其他", "help": "显示本帮助并退出"},
}
LONGEST_LINE = 100  # columns of the help
INDENT = 26


class Text(str):
    """An English text with its Chinese translation."""

    zh: str

    def __new__(cls, text: str, zh: str = "") -> "Text":
        made = super().__new__(cls, text)
        made.zh = zh or text
        return made


def flag(default: Any, help: Text, *aliases: str, shown: str | None = None, metavar: str | None = None) -> Any:
    """Return a dataclass field that is a flag.

    Args:
        default: its value where it is not given; `dataclasses.MISSING` makes the field a positional argument. The flag
            of a tuple may be given several times.
        help: what it means, with unit and range.
        aliases: other names, such as `--model`.
        shown: the default in words, where the value says nothing.
        metavar: what stands for the value in the help.
    """
    says_nothing = default is None or default is False or default is dataclasses.MISSING or default in ("", ())
    if shown is None and not says_nothing:
        shown = str(default)
    if shown is not None:
        shown = shown if isinstance(shown, Text) else Text(shown)
        help = Text(f"{help} (default: {shown})", f"{help.zh}（默认：{shown.zh}）")
    metadata = {"help": help, "aliases": list(aliases)} | ({"metavar": metavar} if metavar else {})
    return dataclasses.field(default=default, metadata=metadata)


def parse_arguments(description: str, *dataclass_types: type, arguments: Sequence[str] | None = None) -> tuple:
    """Parse command-line arguments, the process's own if none are given, into an instance of each dataclass.

    A mistake ends the process with status 2 and one line that names the flag as it was typed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(description, dataclass_types, choose_language(words))
    typed: dict[str, str] = {}  # by field
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        known = name.replace("_", "-")
        if name.startswith("--") and known in parser.flags:
            typed[parser.flags[known]] = name
            words[number] = known + equals + value
    try:
        values, unknown = parser.parse_known_args(words)
        if unknown:
            parser.error("unrecognized arguments: " + " ".join(unknown) + parser.nearest(unknown))
        return tuple(
            cls(**{field.name: getattr(values, field.name) for field in dataclasses.fields(cls) if field.init})
            for cls in dataclass_types
        )
    except argparse.ArgumentError as error:
        names = (error.argument_name or "").split("/")
        name = typed.get(parser.flags.get(names[0], ""), names[0])
        parser.error(f"argument {name}: {error.message}" if name else error.message)
    except ValueError as error:  # a dataclass's own check
        parser.error(name_flags(str(error), parser.flags, typed))


def name_flags(message: str, flags: dict[str, str], typed: dict[str, str]) -> str:
    """Return a message about fields with the flags in their place, each as it was typed.

    Args:
        message: names fields: anywhere those of several words, at its beginning also those of one.
        flags: the field of each flag.
        typed: by field, the flags that were typed.
    """
    shown = {field: flag for flag, field in reversed(flags.items())} | typed
    several = "|".join(field for field in shown if "_" in field)
    return re.sub(rf"\b(?:{several or '$'})\b|^(?:{'|'.join(shown)})\b", lambda found: shown[found[0]], message)


def choose_language(words: Sequence[str] = ()) -> str:
    """Return zh or en: what follows `--lang`, else the locale's language."""
    for first, second in zip(words, [*words, ""][1:], strict=True):
        chosen = second if first == "--lang" else first.removeprefix("--lang=")
        if chosen in PARSER_WORDS and first.startswith("--lang"):
            return chosen
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    name = next(filter(None, names), None) or locale.getlocale()[0] or ""
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


class Parser(argparse.ArgumentParser):
    """A parser of command lines whose mistakes are one line, and that knows the nearest flag.

    Attributes:
        flags: the field of each flag, a field's shortest flag first.
    """

    flags: dict[str, str]

    def error(self, message: str) -> typing.NoReturn:
        """End the process with status 2, and say why."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def nearest(self, unknown: Sequence[str]) -> str:
        """Return the words that name a flag that was probably meant, or none."""
        for word in unknown:
            name = word.partition("=")[0].replace("_", "-")
            if name.startswith("--") and (near := difflib.get_close_matches(name, self.flags, 1)):
                return f" (did you mean {near[0]}?)"
        return " (--help lists the flags)"


def build_parser(description: str, dataclass_types: Sequence[type], language: str) -> Parser:
    """Return the parser of some dataclasses, whose help is in a language."""
    texts = PARSER_WORDS[language]
    parser = Parser(
        description=translate(description, language).strip(),
        formatter_class=HelpFormatter if language == "en" else ChineseHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    parser.flags, positionals, groups = {}, [], {}
    for cls in dataclass_types:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            origin = next(base for base in reversed(cls.__mro__) if field.name in vars(base).get("__annotations__", ()))
            title = translate(getattr(origin, "title", origin.__name__), language)
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            flags = add_field(groups[title], field, hints[field.name], language)
            parser.flags |= dict.fromkeys(flags, field.name)
            positionals += [] if flags else [field.name.upper()]
    others = parser.add_argument_group(texts["others"])
    others.add_argument("-h", "--help", action="help", help=texts["help"])
    parser.flags["--help"] = "help"
    parser.usage = " ".join(["%(prog)s", *positionals, f"[--{texts['flags']} …]"])
    return parser


def add_field(group: Any, field: dataclasses.Field, hint: Any, language: str) -> list[str]:
    """Add a dataclass field to a parser's group; return its flags, shortest first, none if it is positional."""
    kinds = [kind for kind in typing.get_args(hint) or [hint] if kind is not types.NoneType]
    literal = typing.get_origin(hint) is typing.Literal
    keywords = {"help": translate(field.metadata["help"], language), "type": str if literal else kinds[0]}
    if literal:
        keywords["choices"] = kinds
    elif keywords["type"] is bool:
        keywords = {"help": keywords["help"], "action": "store_true"}
    else:
        default_name = {int: "N", float: "X"}.get(keywords["type"], "TEXT")
        keywords["metavar"] = field.metadata.get("metavar", default_name)
    if field.default is dataclasses.MISSING:
        group.add_argument(field.name, **keywords | {"metavar": field.name.upper()})
        return []
    default = field.default
    if typing.get_origin(hint) is tuple:
        keywords["action"], default = "append", list(default)
    flags = sorted([*field.metadata["aliases"], "--" + field.name.replace("_", "-")], key=len)
    group.add_argument(*flags, dest=field.name, default=default, **keywords)
    return flags


def translate(text: str, language: str) -> str:
    """Return a text in a language, if it has a translation."""
    return text.zh if language == "zh" and isinstance(text, Text) else text


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Name a flag's value once behind all of its names, and break lines where Chinese text may be broken, too."""

    language = "en"

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns - 2, LONGEST_LINE)
        super().__init__(prog, max_help_position=INDENT, width=max(width, 40))

    def add_usage(self, usage, actions, groups, prefix=None) -> None:  # noqa: D102
        super().add_usage(usage, actions, groups, PARSER_WORDS[self.language]["usage"])

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return break_lines(text, width)


class ChineseHelpFormatter(HelpFormatter):
    """The same with Chinese headings."""

    language = "zh"


def break_lines(text: str, width: int) -> list[str]:
    """Break a paragraph into lines of at most `width` columns: at spaces, and around wide characters."""
    lines, line, columns = [], "", 0
    for part in re.findall(r"[⺀-￯][，。；：、！？）]*|[^\s⺀-￯]+[，。；：、！？）]*|\s+", text):
        size = text_width(part)
        if columns + size > width and part.strip():
            lines, line, columns = [*lines, line.rstrip()], "", 0
        if line or part.strip():
            line, columns = line + part, columns + size
    return [*lines, line]


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) - sum(unicodedata.combining(character) > 0 for character in text) + wide
