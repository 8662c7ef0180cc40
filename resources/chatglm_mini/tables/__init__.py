"""The closed lists that the skills know, as text: one entry a line, or one entry a block of lines with blank lines between."""

from pathlib import Path


def table(name: str) -> list[str]:
    """Return the lines of `name`.txt."""
    return (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def blocks(name: str) -> list[list[str]]:
    """Return the blocks of `name`.txt, each as its lines."""
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return [block.splitlines() for block in text.strip().split("\n\n")]
