"""The server's benchmark and soak run: for seconds here, by hand for as long as they are meant to."""

from __future__ import annotations

import re

import pytest
from serving import write_lively_checkpoint

pytest.importorskip("fastapi", reason="the server's packages are not installed")
pytest.importorskip("httpx", reason="the clients' packages are not installed")

from tests.benchmarks import serving as benchmark  # noqa: E402
from tests.benchmarks import soak  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("benchmarks") / "small"
    write_lively_checkpoint(made)
    return str(made)


@pytest.mark.long
def test_soak_finds_nothing_wrong(folder, capsys):
    words = ["--model", folder, "--seconds", "6", "--clients", "8", "--questions", "7", "--tokens", "12"]
    status = soak.main(words)
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert "| wrong | nothing |" in shown.out and " post" in shown.out and " stream" in shown.out


def test_soak_notices_a_wrong_answer():
    clients = soak.Clients(None, 9, 0)
    clients.expected = {"a": "text of a", "b": "text of b"}
    clients.compare("POST /", "a", "text of a")
    clients.compare("/stream", "a", "text", complete=False)
    assert clients.accept(200) and not clients.accept(503) and not clients.accept(422, 422) and not clients.wrong
    clients.compare("POST /", "a", "text of b")
    clients.compare("/stream", "a", "text")
    clients.accept(500)
    assert len(clients.wrong) == 3
    counted = 'chatglm_requests_total{route="/",status="500"} 2.0\nchatglm_requests_total{route="/",status="200"} 9.0\n'
    assert soak.server_errors(counted) == {500: 2}


@pytest.mark.long
def test_comparison_with_the_originals_way(folder, capsys):
    words = ["--models", folder, "--clients", "2", "--tokens", "4", "--seconds", "3", "--prompt-tokens", "200"]
    assert benchmark.main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^\| 2 \| original \| [\d.]+ \|", shown, re.M) and "2 clients: " in shown
    assert re.search(r"first token: [\d.]+ s here, (> )?[\d.]+ s in the original's queue", shown)
    assert "the longest pause of a running stream is" in shown


def test_percentile_says_what_had_not_happened():
    times = [(0.1, True), (0.2, True), (0.3, True), (5.0, False)]
    assert benchmark.percentile(times, 0.5) == "200" and benchmark.percentile(times, 0.99) == "> 5,000"
