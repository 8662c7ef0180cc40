"""The plan of the house: which room imports which, and how large files and functions are."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ["chatglm", "loading", "engine", "server", "pages", "ptuning", "resources", "tests"]
MAY_IMPORT = {
    "chatglm": set(),
    "loading": {"chatglm"},
    "engine": {"chatglm", "loading"},
    "server": {"chatglm", "loading", "engine"},
    "pages": {"chatglm", "loading", "engine"},
    "ptuning": {"chatglm", "loading"},
}
SCRIPTS = ["api.py", "cli_demo.py", "quantize.py", "serve_ray.py", "utils.py", "web_demo.py", "web_demo2.py"]
LONGEST_SCRIPT, LONGEST_MODEL_FILE, LONGEST_FILE, LONGEST_FUNCTION = 130, 900, 600, 60
LONG_FUNCTIONS = 2  # so many may be longer


def python_files(*folders: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")]
    return [ROOT / name for name in names if not folders or name.split("/")[0] in folders]


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms that a file imports, imports inside functions included, relative ones not."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names} & {*ROOMS, *(script.removesuffix(".py") for script in SCRIPTS)}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_imports_only_rooms_below_it(room):
    scripts = {ROOT / "ptuning" / "web_demo.py"}
    for file in set(python_files(room)) - scripts:
        forbidden = imported_rooms(file) - MAY_IMPORT[room] - {room}
        assert not forbidden, f"{file.relative_to(ROOT)} imports {', '.join(sorted(forbidden))}"


def test_no_script_imports_another():
    for script in SCRIPTS:
        others = imported_rooms(ROOT / script) & {other.removesuffix(".py") for other in SCRIPTS}
        assert not others, f"{script} imports {others}"


def test_files_are_not_too_long():
    """Length in lines: scripts, the model file, and all other Python files of the product."""
    for file in python_files(*MAY_IMPORT, "examples", *SCRIPTS):
        name, length = str(file.relative_to(ROOT)), len(file.read_text(encoding="utf-8").splitlines())
        limit = LONGEST_SCRIPT if name in SCRIPTS else LONGEST_FILE
        limit = LONGEST_MODEL_FILE if file.name == "modeling_chatglm.py" else limit
        assert length <= limit, f"{name} has {length} lines, at most {limit}"


def test_functions_are_not_too_long():
    """Lines of a function without its docstring and signature."""
    long = []
    for file in python_files(*MAY_IMPORT, "examples", *SCRIPTS):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                length = node.end_lineno - body[0].lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(f"{file.relative_to(ROOT)}: {node.name} ({length})")
    assert len(long) <= LONG_FUNCTIONS, long


def test_scripts_do_nothing_when_imported():
    """Definitions, imports, constants, and `main` behind the usual condition; nothing else."""
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign
    for script in SCRIPTS:
        for node in ast.parse((ROOT / script).read_text(encoding="utf-8")).body:
            text = ast.unparse(node)
            condition = re.match(r"if (__name__ == '__main__'|TYPE_CHECKING)", text)
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert isinstance(node, allowed) or condition or docstring, f"{script}: {text[:80]}"
