"""Stand-ins for tests of the scripts: a model that replays answers, a small random checkpoint, and a terminal."""

from __future__ import annotations

import codecs
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import warm
from test_tokenization_chatglm import CONTROL_TOKENS, FORMATTING_TOKENS, write_folder, write_vocabulary

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.answer_text import SettledText
from engine import Answer, Engine, Request

ROOT = Path(__file__).resolve().parent.parent
History = list[tuple[str, str]]


class ReplayModel:
    """Answer every question with the next of the given answers, a character at a time, as `stream_chat` would.

    Args:
        answers: texts; or functions of (query, history) that return a text or raise what `stream_chat` may raise.
        seconds: pause before each character.
        dropped: numbers of rounds to report as dropped, one for each answer.

    Attributes:
        calls: the (query, history, keywords) of each call.
        closed: how many of the streams have ended or been closed.
    """

    def __init__(
        self,
        answers: Sequence[str | Callable[[str, History], str]],
        seconds: float = 0.0,
        dropped: Sequence[int] = (),
    ) -> None:
        self.answers, self.seconds, self.dropped = list(answers), seconds, list(dropped)
        self.calls: list[tuple[str, History, dict]] = []
        self.closed = 0

    def stream_chat(
        self, tokenizer: object, query: str, history: History, on_dropped_rounds: Callable[[int], None], **keywords
    ) -> Iterator[tuple[str, History]]:
        """Yield (answer so far, history with it), each in the final pieces in which the real model yields it."""
        self.calls.append((query, list(history), keywords))
        answer = self.answers.pop(0)
        text = answer if isinstance(answer, str) else answer(query, history)
        if self.dropped and (dropped := self.dropped.pop(0)):
            on_dropped_rounds(dropped)
        try:
            response, settled = "", SettledText()
            for end in range(1, len(text) + 1):
                time.sleep(self.seconds)
                if piece := settled.put(text[end - 1], ended=end == len(text)):
                    response += piece
                    yield response, [*history, (query, response)]
        finally:
            self.closed += 1


class ReplayEngine(Engine):
    """An engine of which all is real but the choice of tokens: its answers are given.

    Args:
        model, tokenizer: a small checkpoint; the model is computed, but what it says does not count.
        answer: returns the answer to a prompt's text.
        seconds: pause before each token; may be changed while the engine runs.
        options: of `Engine`.

    Attributes:
        requests: those that were answered or are being answered.
    """

    def __init__(
        self,
        model: ChatGLMForConditionalGeneration,
        tokenizer: ChatGLMTokenizer,
        answer: Callable[[str], str],
        seconds: float = 0.0,
        **options,
    ) -> None:
        self.answer, self.seconds = answer, seconds
        self.requests: list[Request] = []
        super().__init__(model, tokenizer, **options)

    def prompt(self, request: Request) -> str:
        """Return the text that a request asks to continue, with the colons that its vocabulary makes half as wide."""
        text = self.tokenizer.decode(request.prompt_ids, skip_special_tokens=True)
        return text.replace("问:", "问：").replace("答:", "答：")

    def _begin(self, answer: Answer) -> list[int]:
        self.requests.append(answer.request)
        text = self.answer(self.prompt(answer.request))
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def _sample(self, logits: torch.Tensor, rows: list) -> None:
        time.sleep(self.seconds)
        logits.fill_(-torch.inf)
        for scores, row in zip(logits, rows, strict=True):
            if not hasattr(row.answer, "script"):
                row.answer.script = self._begin(row.answer)
            scores[row.answer.script.pop(0)] = 0
        super()._sample(logits, rows)


def write_small_checkpoint(folder: Path, **config) -> ChatGLMForConditionalGeneration:
    """Write a checkpoint of 2 layers, random half-precision weights and a small vocabulary; return its model."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_vocabulary(folder, CONTROL_TOKENS, FORMATTING_TOKENS)
    (folder / "corpus.txt").unlink()
    (folder / "ice_text.vocab").unlink()
    vocabulary = vocabulary.rename(folder / "vocabulary")
    write_folder(folder, vocabulary)
    vocabulary.unlink()
    (folder / "config.json").unlink()
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(
        ChatGLMConfig(
            vocab_size=-(-tokenizer.vocab_size // 64) * 64,
            hidden_size=32,
            num_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            gmask_token_id=tokenizer.gmask_token_id,
            mask_token_id=tokenizer.mask_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.half().save_pretrained(folder)
    return model.float().eval()


def change_json(file: Path, **changes) -> None:
    """Set keys of the object in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


class Terminal:
    """A program in a pseudo terminal of 80 columns, driven as a person would.

    Args:
        code: Python code to run, with the project and the tests importable.
        environment: changes to the environment.
    """

    def __init__(self, code: str, **environment: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.screen, program_side = pty.openpty()
        fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

        def take_terminal() -> None:  # so that Ctrl-C reaches the program
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and hand that down
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [*([sys.executable] if "LC_ALL" in environment else warm.python()), "-c", code],
            stdin=program_side,
            stdout=program_side,
            stderr=program_side,
            preexec_fn=take_terminal,
            env=os.environ | {"PYTHONPATH": paths, "TERM": "xterm", "INPUTRC": os.devnull} | environment,
        )
        os.close(program_side)
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.output = ""
        self.seen = 0

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.screen, text.encode())

    def read_until(self, text: str, seconds: float = 120.0) -> str:
        """Return what is shown from the last call's end up to the given text; fail if it does not come."""
        deadline = time.monotonic() + seconds
        while (found := self.output.find(text, self.seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output[self.seen :]!r}"
            if not select.select([self.screen], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self.screen, 65536)
            except OSError:  # how Linux reports that the program has closed its side
                data = b""
            assert data, f"the program ended without {text!r}: {self.output[self.seen :]!r}"
            self.output += self.decoder.decode(data)
        start, self.seen = self.seen, found + len(text)
        return self.output[start:found]

    def interrupt(self) -> int:
        """Press Ctrl-C at a prompt, and again every five seconds until the program has ended; return its exit status.

        Python's `input` loses one that comes after the prompt is shown and before it waits for keys.
        """
        for _ in range(12):
            self.type("\x03")
            try:
                self.process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                continue
        return self.wait()

    def wait(self) -> int:
        """Return the exit status of the program, which must be ending."""
        try:
            return self.process.wait(timeout=60)
        finally:
            self.close()

    def close(self) -> None:
        """End the program, if it has not ended, and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.screen >= 0:
            os.close(self.screen)
            self.screen = -1
