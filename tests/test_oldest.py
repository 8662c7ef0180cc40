"""Tests of .ci/oldest.py: the constraints file of CI's second run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from packaging.requirements import Requirement


def oldest(*files: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / ".ci" / "oldest.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True)


def test_oldest_names_each_package_of_the_project_with_an_allowed_version():
    printed = {
        line.name: next(iter(line.specifier)).version
        for line in map(Requirement, oldest(ROOT / "requirements-dev.txt").stdout.splitlines())
    }
    for file in [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements*.txt")]:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                package = Requirement(line)
                name = package.name.lower().replace("_", "-")
                assert package.specifier.contains(printed[name]), line
    floor = re.search(r"^transformers>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert printed["transformers"] == floor[1]


def test_oldest_reads_extras_markers_comments_and_other_files(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("a.b>=1.10,<2\nC_d == 3  # why\n")
    (tmp_path / "all.txt").write_text('# x\n-r more/other.txt\nA-b>=1.9\ne[f,g]>=2.0.1; sys_platform != "darwin"\n')
    expected = ["a-b==1.10", "c-d==3", 'e==2.0.1; sys_platform != "darwin"']
    assert oldest(tmp_path / "all.txt").stdout.splitlines() == expected


def test_oldest_refuses_a_package_without_a_lowest_version(tmp_path):
    (tmp_path / "all.txt").write_text("a>=1\nb<2\n")
    done = oldest(tmp_path / "all.txt")
    assert done.returncode == 1 and "'b<2'" in done.stderr and "lowest version" in done.stderr
