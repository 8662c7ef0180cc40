"""Tests of warm.py: its processes behave as Python's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import warm

PROGRAM = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], sys.stdin.read(), flush=True)
print("problem", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def test_process_has_arguments_folder_environment_streams_and_status(tmp_path):
    def run(python: list[str]) -> subprocess.CompletedProcess:
        environment = os.environ | {"WORD": "词"}
        command = [*python, "-c", PROGRAM, "3", "a b"]
        return subprocess.run(
            command, input="问题", capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment
        )

    expected, done = run([sys.executable]), run(warm.python())
    assert (done.returncode, done.stdout, done.stderr) == (3, expected.stdout, "problem\n")
    assert expected.returncode == 3


def test_process_imports_nothing_of_the_project_before_it_runs():
    names = "import sys; print({'chatglm', 'loading', 'engine', 'server', 'pages'} & set(sys.modules))"
    assert subprocess.run([*warm.python(), "-c", names], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_signals_reach_the_process_and_its_end_is_reported():
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True)"
    code += "; time.sleep(60)"
    process = subprocess.Popen([*warm.python(), "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 7
    killed = subprocess.run([*warm.python(), "-c", "import os; os.kill(os.getpid(), 9)"])
    assert killed.returncode == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_process_ends_when_the_program_that_started_it_is_killed():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = subprocess.Popen([*warm.python(), "-c", code], stdout=subprocess.PIPE, text=True)
    fork = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{fork}"):
        assert time.monotonic() < deadline, "the fork still runs"
        time.sleep(0.05)
