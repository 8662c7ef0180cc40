"""Print the oldest version that requirements files declare of each package, as a constraints file for pip.

    python .ci/oldest.py requirements-dev.txt > oldest.txt

Files named by `-r` are read, too. A package without a lowest version (`>=` or `==`) is an error; where several lines
name a package, the highest of their lowest versions is printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[.*?\])?(?P<versions>[^;]*)(?P<marker>;.*)?")
LOWEST = re.compile(r"(?:>=|==)\s*(\d+(?:\.\d+)*)")


def read_requirements(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name, lowest version and marker (with its `;`, or empty) of each line of a requirements file.

    Raises:
        ValueError: a line that names no package, or one without a lowest version.
    """
    for line in file.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line.startswith("-r"):
            yield from read_requirements(file.parent / line[2:].strip())
        elif line:
            parts = REQUIREMENT.fullmatch(line)
            lowest = LOWEST.search(parts["versions"]) if parts else None
            if lowest is None:
                raise ValueError(f"{file}: each package must have a lowest version (name>=version), got {line!r}")
            yield re.sub(r"[-_.]+", "-", parts["name"]).lower(), lowest[1], parts["marker"] or ""


def oldest_versions(files: list[Path]) -> list[str]:
    """Return one line `name==version` for each package that the files name, with its marker."""
    found: dict[tuple[str, str], str] = {}
    for file in files:
        for name, version, marker in read_requirements(file):
            versions = (found.get((name, marker), "0"), version)
            found[name, marker] = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    return [f"{name}=={version}{marker}" for (name, marker), version in found.items()]


if __name__ == "__main__":
    print("\n".join(oldest_versions([Path(name) for name in sys.argv[1:]])))
