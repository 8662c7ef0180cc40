"""Python processes for tests that begin in 0.1 s: forks of one that has imported PyTorch, transformers and Gradio.

    subprocess.run([*warm.python(), "api.py", "--port", "0"])

The program that is started is this file, which only hands its arguments, environment, folder and standard streams to
the fork server, forwards signals to the fork, and ends as the fork ends. Nothing of this project is imported before
the fork. Not for tests of what an interpreter decides at its start: locale, `PYTHON…` variables, what is imported.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import traceback

LIBRARIES = ("gradio", "fastapi", "uvicorn", "accelerate", "peft", "torch")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1) if os.name == "posix" else ()
_server: list = []  # (process, address)


def python() -> list[str]:
    """Return the beginning of a command line that starts a warm Python, in place of `sys.executable`."""
    if os.name != "posix":
        return [sys.executable]
    if not _server:
        import subprocess
        import tempfile

        address = os.path.join(tempfile.mkdtemp(), "warm")
        process = subprocess.Popen([sys.executable, __file__, "--serve", address], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        atexit.register(process.kill)
        _server.append((process, address))
    return [sys.executable, "-S", "-E", __file__, _server[0][1]]


def ask(address: str, arguments: list[str]) -> int:
    """Have the server start a process with this one's streams; return how it ended: a status, or minus a signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # one that comes before the fork is known waits until it is
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        wanted = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(wanted).encode("utf-8", "surrogateescape")
        socket.send_fds(connection, [len(message).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(message)
        answers = connection.makefile("r")
        fork = int(answers.readline())
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(fork, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return int(answers.readline())


def serve(address: str) -> None:
    """Fork a process for each connection; returns in the fork."""
    import gc
    import importlib

    for name in LIBRARIES:
        importlib.import_module(name)
    from transformers import AutoModel, LogitsProcessor, PreTrainedModel, PreTrainedTokenizer, Trainer  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    gc.freeze()  # else each fork would look through, and so copy, all that is there
    os.write(1, b"ready\n")
    listener.settimeout(5)
    parent = os.getppid()
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != parent:  # killed, so that it could not end this process
                os._exit(0)
            continue
        connection.settimeout(None)
        if os.fork() == 0:
            listener.close()
            return watch(connection)
        connection.close()


def watch(connection: socket.socket) -> None:
    """Start one process, tell how it ends, kill it when the one who asked is gone; returns in the process itself."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    wanted = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
    fork = os.fork()
    if fork == 0:
        connection.close()
        return begin(wanted, streams)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(ConnectionError):  # nobody is there any more, as the process below will see
        connection.sendall(f"{fork}\n".encode())
    if os.fork() == 0:  # reads until the one who asked is gone
        with contextlib.suppress(ConnectionError):  # it was gone before it had read what was sent to it
            connection.recv(1)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(fork, signal.SIGKILL)
        os._exit(0)
    _, status = os.waitpid(fork, 0)
    try:
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def begin(wanted: dict, streams: list[int]) -> None:
    """Become the process that is wanted, but for running its code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and hand that down
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    sys.argv = wanted["arguments"]
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, 1 if number else -1, "utf-8", "surrogateescape", closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )


def run() -> None:
    """Run the code that `sys.argv` names, as `python` would."""
    import random
    import runpy

    import torch

    random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    sys.path[0:1] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    first, *_ = sys.argv
    if first == "-c":
        code, sys.argv = sys.argv[1], ["-c", *sys.argv[2:]]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = sys.argv[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
        status = 0
        try:
            run()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)  # taking all of the libraries apart would take seconds
    else:
        status = ask(sys.argv[1], sys.argv[2:])
        if status < 0:
            with contextlib.suppress(OSError):  # SIGKILL has no handler
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        sys.exit(status)
