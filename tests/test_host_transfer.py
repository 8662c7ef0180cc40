"""Transfers between host and device: their content, and how often a decoded token waits for an (emulated) GPU."""

from __future__ import annotations

import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
from emulated_device import EmulatedDevice, EmulatedTensor

from chatglm import cuda_decode, host_transfer
from chatglm import modeling_chatglm as modeling
from chatglm.generation_chatglm import decode
from chatglm.sampler import Sampler
from chatglm.sampling import Sampling
from engine import Engine, Request, prompts

pytest_plugins = ["cuda_emulation"]  # fixture `emulations`

# Some operations ask the build's own guard of a device, even where the tensor only says that it is on one.
device_guard = pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch's CPU build has no guard of a GPU")

TENSORS = [
    torch.tensor([True, False, True]),
    torch.tensor([[1, -(2**40)]]),
    torch.tensor([0.1, float("nan"), float("-inf")]),
    torch.tensor(7, dtype=torch.int32),
    torch.zeros(0, 2),
    torch.arange(6, dtype=torch.float64).view(2, 3).T,
]


def assert_same(actual, expected) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert type(one) is torch.Tensor and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@device_guard
def test_download_brings_all_in_one_transfer():
    assert_same(host_transfer.download(*TENSORS), TENSORS)
    with EmulatedDevice() as device:
        there = [EmulatedTensor(tensor) for tensor in TENSORS]
        here = host_transfer.download(*there)
        assert device.waits == ["_to_copy"]
    assert_same(here, TENSORS)


def test_upload_does_not_wait():
    with EmulatedDevice() as device:
        there = [host_transfer.upload(values, "cuda") for values in ([1, 2], [0.5], torch.tensor([True]))]
        assert not device.waits
        torch.tensor([1], device="cuda")
        assert device.waits == ["tensor"]
    assert [tensor.inner.dtype for tensor in there] == [torch.int64, torch.float32, torch.bool]
    assert [tensor.inner.tolist() for tensor in there] == [[1, 2], [0.5], [True]]
    assert host_transfer.upload([1], "cpu", torch.int32).dtype == torch.int32


@pytest.fixture(params=["ordinary pass", "graph"])
def on_device(request, monkeypatch, mini_model):
    """Return the embedded model on an emulated device, which is entered; a graph is a list of emulated launches."""
    monkeypatch.setattr(modeling, "decode_step", lambda *_: None)
    monkeypatch.setattr(prompts, "record_event", lambda device: SimpleNamespace(synchronize=lambda: None))
    if request.param == "graph":
        request.getfixturevalue("emulations")("tensor cores")
        monkeypatch.setattr(cuda_decode, "_decoders", weakref.WeakKeyDictionary())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))

        def capture(graph) -> None:
            graph.logits = graph.compute()
            graph.graph = SimpleNamespace(replay=lambda: graph.logits.copy_(graph.compute()))

        def decode_step(model, input_ids, cache):
            if not cuda_decode._is_next_token(input_ids, cache):
                return None
            return cuda_decode._decoders.setdefault(model, cuda_decode._Decoder()).step(model, input_ids, cache, 0)

        monkeypatch.setattr(cuda_decode.DecodeGraph, "capture", capture)
        monkeypatch.setattr(modeling, "decode_step", decode_step)
    model = copy.deepcopy(mini_model)
    # the graph leaves inference mode, which tensors of another class cannot do
    with torch.no_grad() if request.param == "graph" else torch.inference_mode(), EmulatedDevice() as device:
        yield device.move(model), device
    assert (request.param == "graph") == bool(cuda_decode._decoders.get(model, None))


@device_guard
@pytest.mark.parametrize(
    ("sampling", "waits"),
    [
        ({}, 1),
        ({"temperature": 0}, 1),
        ({"repetition_penalty": 1.2, "language": "zh"}, 1),
        ({"logprobs": 3}, 2),  # one more for all rows that ask for it
    ],
)
def test_engine_waits_once_a_token(on_device, mini_tokenizer, monkeypatch, sampling, waits):
    model, device = on_device
    monkeypatch.setattr(Engine, "alive", True)
    monkeypatch.setattr("threading.Thread.start", lambda thread: None)  # the test is the engine's thread
    engine = Engine(model, mini_tokenizer, cache_bytes=1 << 30)
    engine.end_ids = set()
    for number in range(3):
        engine.submit(Request(mini_tokenizer.encode_prompt("你好" * (number + 1)), 20, seed=number, **sampling))
    while engine.waiting or engine.reading:
        engine._read()
    for step in range(3):
        device.waits.clear()
        engine._decode()
        if step:  # what is uploaded once an answer has been
            assert len(device.waits) == waits, device.waits
    assert len(engine.rows) == 3


@device_guard
@pytest.mark.long
def test_chat_waits_once_a_token(on_device, mini_tokenizer):
    model, device = on_device
    input_ids = EmulatedTensor(torch.tensor([mini_tokenizer.encode_prompt("你好")]))
    tokens = decode(model, input_ids, None, [Sampler(Sampling(seed=1))], 8, [], model.config.pad_token_id)
    counts = []
    for _ in tokens:
        counts.append(len(device.waits))
        device.waits.clear()
    assert len(counts) == 8
    assert set(counts[1:]) == {1}
