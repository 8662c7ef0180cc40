"""Every submitted answer ends exactly once, whichever call in the engine's loop raises: each is made to, in turn."""

from __future__ import annotations

import itertools
import queue

import pytest
from serving import wait_until, write_lively_checkpoint

import chatglm.cache
import engine.engine as loop
from chatglm import ChatGLMTokenizer
from chatglm.answer_text import AnswerText
from engine import Engine, Request
from engine.cache import BatchCache
from engine.prompts import Prefill, Prompt, PromptCache, PromptsCache
from engine.rows import Row

SECONDS = 60  # for an answer to come at all
TOKEN_BYTES = 2 * 2 * 32 * 4  # of a key and a value in each of two layers
COUNTED = {
    Engine: (
        "_fail",
        "_wake",
        "_await_work",
        "_step",
        "_drop",
        "_is_over",
        "_reason",
        "_read",
        "_take",
        "_advance",
        "_join",
    )
    + ("_make_room", "_resume", "_decode", "_sample", "_deliver", "_remove", "_end", "_put"),
    BatchCache: ("__init__", "has_room", "prepare", "advance", "append_row", "preempt", "remove_row", "_resize"),
    Prefill: ("__init__", "advance"),
    Prompt: ("__init__", "bytes"),
    PromptsCache: ("__init__", "update"),
    PromptCache: ("get", "put"),
    Row: ("__init__",),
    AnswerText: ("put", "end"),
    loop: ("sample", "token_probabilities", "failed"),
}


class Calls:
    """Note the calls of the engine's loop, and let some of them raise.

    Attributes:
        made: the names of the functions called since `restart`.
        failed: those of the calls that were made to raise.
    """

    def __init__(self, monkeypatch) -> None:
        self.restart()
        for owner, names in COUNTED.items():
            for name in names:
                monkeypatch.setattr(owner, name, self.counted(f"{owner.__name__}.{name}", getattr(owner, name)))

    def counted(self, name: str, function):
        def call(*arguments, **keywords):
            number, occurrence = len(self.made), self.made.count(name)
            self.made.append(name)
            if number in self.failing or (name, occurrence) in self.failing:
                self.failed.append(name)
                raise MemoryError(f"{name} was made to fail")
            return function(*arguments, **keywords)

        return call

    def restart(self, *failing: int | tuple[str, int]) -> None:
        """Begin anew; let calls raise by their number among all, or by name and number among those of the name."""
        self.made: list[str] = []
        self.failing, self.failed = set(failing), []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures") / "small"
    model = write_lively_checkpoint(folder)
    return model, ChatGLMTokenizer.from_pretrained(folder)


@pytest.fixture
def calls(monkeypatch, caplog):
    caplog.set_level("CRITICAL")  # thousands of tracebacks, all asked for
    return Calls(monkeypatch)


def small_engine(checkpoint, monkeypatch) -> Engine:
    """Return an engine in whose memory three rows do not fit to their ends, so that one is preempted and comes back."""
    monkeypatch.setattr(chatglm.cache, "CACHE_STEP", 4)
    monkeypatch.setattr(loop, "ROOM_TO_RESUME", 1)
    made = Engine(*checkpoint, max_batch_size=3, cache_bytes=30 * TOKEN_BYTES, prompt_cache_bytes=1)
    made.pass_tokens, made.end_ids = 64, set()
    return made


@pytest.fixture
def engine(calls, checkpoint, monkeypatch):
    made = small_engine(checkpoint, monkeypatch)
    yield made
    calls.restart()
    made.close()
    assert not made.alive


def ending(answer) -> str:
    """Read an answer to its end; return how it ended. What comes behind the end would be a second one."""
    while True:
        piece = answer.pieces.get(timeout=SECONDS)
        if piece.error is not None or piece.finish_reason is not None:
            return piece.finish_reason or type(piece.error).__name__


def ask(engine: Engine) -> list[str]:
    """Let every kind of request pass through the loop; return how each answer ended."""
    encode = engine.tokenizer.encode_prompt
    requests = [
        Request(encode("你好"), max_tokens=16, temperature=0, logprobs=1),
        Request(encode("a"), max_tokens=16, seed=1, stop=("x",)),
        Request(encode("1 + 1"), max_tokens=2, temperature=0),
        Request(encode("hello"), embedding=True),
        Request(encode("你好"), max_tokens=3),
        Request(encode("b"), max_tokens=50),
    ]
    answers = engine.submit(*requests)
    answers[-1].cancel()
    found = [ending(answer) for answer in answers]
    for answer in answers:
        with pytest.raises(queue.Empty):
            answer.pieces.get_nowait()
    return found


def check_still_sound(engine: Engine, calls: Calls) -> None:
    """Check that nothing is left of an earlier failure: all answers come, and no place stays taken."""
    calls.restart()
    assert set(ask(engine)) <= {"stop", "length", "cancelled"}
    wait_until(lambda: engine.batch_size == engine.queue_length == 0)
    assert engine.alive and not engine.open


def test_every_answer_ends_once_whichever_call_raises(calls, engine):
    check_still_sound(engine, calls)
    reached = set()
    for name in sorted(set(calls.made)):
        calls.restart((name, 0))
        ask(engine)
        reached |= set(calls.failed)
    check_still_sound(engine, calls)
    expected = {f"{owner.__name__}.{name}" for owner, names in COUNTED.items() for name in names}
    assert expected - reached == {"Engine._fail", "engine.engine.failed", "BatchCache.__init__"}  # told of a failure


def test_every_answer_ends_once_when_telling_of_a_failure_fails_too(calls, engine):
    check_still_sound(engine, calls)
    total, reached = len(calls.made), set()
    for number, later in itertools.product(range(0, total, total // 3), range(1, 9)):
        calls.restart(number, number + later)
        ask(engine)
        reached |= set(calls.failed)
    assert {"Engine._fail", "engine.engine.failed", "BatchCache.__init__"} <= reached
    check_still_sound(engine, calls)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_tells_everybody(calls, engine, monkeypatch):
    """An exception that no loop may survive (a SystemExit) still ends the answers, and no new ones are taken."""

    def die(*_):
        raise SystemExit

    monkeypatch.setattr(Engine, "_step", die)
    answers = engine.submit(*(Request(engine.tokenizer.encode_prompt("a"), max_tokens=2) for _ in range(3)))
    assert [ending(answer) for answer in answers] == ["ClosedError"] * 3
    engine.thread.join(SECONDS)
    with pytest.raises(loop.ClosedError):
        engine.submit(Request(engine.tokenizer.encode_prompt("a")))
