"""Decoding by fused kernels and a graph equals the ordinary forward pass: with the kernels emulated on the CPU and the
graph replaced by a list of launches, and on a GPU where there is one."""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace

import original
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from chatglm import ChatGLMCache, ChatGLMConfig, ChatGLMForConditionalGeneration, cpu_kernels, cuda_decode
from chatglm import cache as cache_module
from chatglm import modeling_chatglm as modeling
from chatglm.quantization import set_exact
from engine import Engine, Request
from engine.cache import BatchCache
from engine.prompts import Prefill, Prompt
from loading import adapters
from loading.named_adapters import NamedAdapters
from tests.benchmarks.cuda_decode import build_model, three_rounds

pytest_plugins = ["cuda_emulation"]  # fixture `emulations`

GMASK, SOP, PAD, MASK = 101, 104, 3, 100
PROMPT = [[11, 12, 13, 14, 15, GMASK, SOP]]
PADDED = [[11, 12, 13, 14, 15, GMASK, SOP], [PAD, PAD, PAD, 21, 22, GMASK, SOP], [PAD, 31, MASK, 32, 33, 34, SOP]]
# relative norm of what rounding in a few layers comes to
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch) -> torch.device:
    """Return the device of the test's models, where `decode_step` works; on the CPU through emulated kernels."""
    monkeypatch.setattr(cuda_decode, "_decoders", weakref.WeakKeyDictionary())
    if request.param == "cuda":
        return torch.device("cuda", torch.cuda.current_device())

    def capture(graph) -> None:
        graph.logits = graph.compute()
        graph.graph = SimpleNamespace(replay=lambda: graph.logits.copy_(graph.compute()))

    def decode_step(model, input_ids, cache):
        if not cuda_decode._is_next_token(input_ids, cache):
            return None
        decoder = cuda_decode._decoders.setdefault(model, cuda_decode._Decoder())
        return decoder.step(model, input_ids, cache, 0)

    request.getfixturevalue("emulations")("tensor cores")
    monkeypatch.setattr(cpu_kernels, "available", lambda dtype: False)  # prompts are read exactly
    monkeypatch.setattr(cuda_decode.DecodeGraph, "capture", capture)
    monkeypatch.setattr(modeling, "decode_step", decode_step)
    return torch.device("cpu")


def without_graph(function, *arguments, **keywords):
    """Call a function while the ordinary forward pass does everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "decode_step", lambda *_: None)
        return function(*arguments, **keywords)


def graphs_of(model) -> list:
    decoder = cuda_decode._decoders.get(model)
    return [] if decoder is None else list(decoder.graphs.values())


@torch.no_grad()
def decode(model, prompt, tokens) -> torch.Tensor:
    """Read a prompt, then feed the tokens [b, n] one by one; return the logits after each, [n, b, v]."""
    cache = model(torch.tensor(prompt, device=model.device), use_cache=True).past_key_values
    return torch.stack([model(token[:, None], past_key_values=cache).logits[:, 0] for token in tokens.T])


def assert_same_logits(model, exact_model, prompt, count: int = 4) -> None:
    tokens = torch.randint(5, 99, (len(prompt), count), device=model.device)
    actual, expected = decode(model, prompt, tokens), without_graph(decode, exact_model, prompt, tokens)
    assert graphs_of(model), "the ordinary pass computed this"
    error = (actual.double() - expected.double()).norm() / expected.double().norm()
    assert error <= ROUNDING[actual.dtype]
    assert actual.dtype == expected.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prompt", [PROMPT, PADDED], ids=["single", "padded"])
def test_float_model_equals_ordinary_pass(device, random_model, dtype, prompt):
    model = random_model.to(device, dtype)
    assert_same_logits(model, model, prompt)


def test_greedy_equals_original(device, small_model):
    model = copy.deepcopy(small_model).to(device)
    answers = original.greedy_answers(
        lambda ids, length: model.generate(ids.to(device), max_length=length, do_sample=False)
    )
    assert graphs_of(model), "the ordinary pass computed this"
    assert answers == original.GREEDY


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("bits", "embeddings"), [(8, False), (4, False), (4, True)])
def test_quantised_model_equals_exact_pass(device, random_model, dtype, bits, embeddings):
    model = random_model.to(device, dtype).quantize(bits, embeddings)
    exact = copy.deepcopy(model)
    set_exact(exact)
    assert_same_logits(model, exact, PADDED)


@pytest.mark.parametrize("projection", [False, True])
def test_prefix_tuned_model_equals_ordinary_pass(device, random_model, projection):
    config = copy.deepcopy(random_model.config)
    config.pre_seq_len, config.prefix_projection = 5, projection
    model = ChatGLMForConditionalGeneration(config)
    model.load_state_dict(random_model.state_dict(), strict=False)
    nn.init.normal_(model.transformer.prefix_encoder.embedding.weight)
    model = model.to(device).eval()
    assert_same_logits(model, model, PROMPT)
    assert_same_logits(model, model, PADDED)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prompts_read_together_are_as_alone(device, random_model, dtype):
    model = random_model.to(device, dtype)
    together, alone = ([Prompt([token for token in row if token != PAD]) for row in PADDED] for _ in range(2))
    for prompts in (together, *([prompt] for prompt in alone)):
        assert Prefill(model, prompts).advance(60)
    for one, other in zip(together, alone, strict=True):
        assert one.cache.lengths == other.cache.lengths
        for actual, expected in ((one.logits, other.logits), (one.cache.values[-1], other.cache.values[-1])):
            error = (actual.double() - expected.double()).norm() / expected.double().norm()
            assert error <= ROUNDING[dtype]


def test_cache_grows_under_a_graph_that_is_captured_once(device, random_model, monkeypatch):
    monkeypatch.setattr(cache_module, "CACHE_STEP", 4)
    model = random_model.to(device)
    for _ in range(2):  # the second conversation has another cache
        assert_same_logits(model, model, PADDED, count=11)
    assert len(graphs_of(model)) == 1
    assert_same_logits(model, model, PROMPT)
    assert len(graphs_of(model)) == 2  # one for each number of rows


def test_batches_between_two_graphs_share_the_larger_one(device, random_model):
    """Rows that are not there change nothing, also after they were."""
    model = random_model.to(device)
    for prompt in (PADDED, PADDED + PADDED[:1], PADDED):  # 3 rows, 4, 3
        assert_same_logits(model, model, prompt)
    (graph,) = graphs_of(model)
    assert len(graph.column) == 4
    assert graph.column[3] == -1


def test_graph_bytes_grow_with_the_batch():
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(num_layers=1)).half()
    alone, many = cuda_decode.graph_bytes(model, 1), cuda_decode.graph_bytes(model, 32)
    logits = 2 * model.config.vocab_size
    assert logits < alone < many
    assert sum(cuda_decode.GRAPH_ROWS) * logits < many < 300e6  # a graph for each batch size came to 600 MB


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": False},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2},
        {"do_sample": False, "prompt_lookup_num_tokens": 2},
        {"do_sample": False, "repetition_penalty": 1.2},
    ],
    ids=lambda arguments: " ".join(list(arguments)[1:]) or "greedy",
)
def test_generate_equals_ordinary_generate(device, random_model, arguments, monkeypatch):
    monkeypatch.setattr(cache_module, "CACHE_STEP", 8)
    model = random_model.to(device)
    prompt = PROMPT if "prompt_lookup_num_tokens" in arguments else PADDED
    input_ids = torch.tensor(prompt, device=device)

    def generate():
        torch.manual_seed(1)
        return model.generate(input_ids, max_new_tokens=12, **arguments)

    expected = without_graph(generate)
    assert not graphs_of(model)
    assert torch.equal(generate(), expected)
    assert graphs_of(model)


def test_a_graph_reads_each_token_once(device, random_model, monkeypatch):
    """Prompt and answer less one; capturing the graph computes the first step once or twice more."""
    model, read, lookup = random_model.to(device), [], torch.nn.functional.embedding
    monkeypatch.setattr(
        torch.nn.functional,
        "embedding",
        lambda ids, *rest, **more: read.append(ids.numel()) or lookup(ids, *rest, **more),
    )
    model.generate(torch.tensor(PROMPT, device=device), max_new_tokens=9, do_sample=False, eos_token_id=119)
    assert graphs_of(model)
    launched = 8 if device.type == "cpu" else 0  # a real graph's launches do not pass here
    assert len(PROMPT[0]) + launched <= sum(read) <= len(PROMPT[0]) + launched + 2


def test_rows_of_different_lengths_equal_each_alone(device, random_model):
    """A cache as `engine/` keeps it: every answer has its own length, and room for more rows."""
    model, prompts = random_model.to(device), [PROMPT[0], PROMPT[0][2:], [MASK, 40, SOP]]
    tokens = torch.tensor([[20, 30], [21, 31], [22, 32]], device=device)

    cache = BatchCache()
    cache.row_lengths = [len(prompt) for prompt in prompts]
    cache.context_lengths = [len(prompt) - 1 for prompt in prompts]
    cache.mask_positions = [5, 3, 0]
    cache.keys, cache.values = [[torch.zeros(4, 2, 16, 16, device=device) for _ in range(3)] for _ in range(2)]
    expected = []
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            alone = model(torch.tensor([prompt], device=device), use_cache=True).past_key_values
        for layer, (key, value) in enumerate(alone):
            cache.keys[layer][row, :, : len(prompt)], cache.values[layer][row, :, : len(prompt)] = key[0], value[0]
        expected.append(without_graph(decode, model, [prompt], tokens[row : row + 1])[:, 0])
    actual = []
    for step in range(2):
        with torch.no_grad():
            actual.append(model(tokens[:, step : step + 1], past_key_values=cache).logits[:, 0])
        cache.row_lengths = [length + 1 for length in cache.row_lengths]
    assert graphs_of(model)
    torch.testing.assert_close(torch.stack(actual, dim=1), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_logits_of_a_step_stay_when_the_next_one_is_computed(device, random_model):
    model = random_model.to(device)
    with torch.no_grad():
        cache = model(torch.tensor(PROMPT, device=device), use_cache=True).past_key_values
        first = model(torch.tensor([[20]], device=device), past_key_values=cache).logits
        kept = first.clone()
        second = model(torch.tensor([[30]], device=device), past_key_values=cache).logits
    assert torch.equal(first, kept)
    assert not torch.equal(second, kept)
    assert cache.get_seq_length() == len(PROMPT[0]) + 2


def test_inference_mode_and_no_grad_can_alternate(device, random_model):
    model, token = random_model.to(device), torch.tensor([[20]], device=device)
    outputs = []
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            cache = model(torch.tensor(PROMPT, device=device), use_cache=True).past_key_values
            outputs.append(model(token.clone(), past_key_values=cache).logits.clone())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_changed_weights_are_noticed_by_the_next_answer(device, random_model):
    model = random_model.to(device)
    assert_same_logits(model, model, PROMPT)
    (before,) = graphs_of(model)
    with torch.no_grad():
        model.transformer.layers[1].mlp.dense_4h_to_h.weight.mul_(1.5)  # in place: read through the same address
    assert_same_logits(model, model, PROMPT)
    assert graphs_of(model) == [before]
    dense = model.transformer.layers[1].attention.dense
    dense.weight = nn.Parameter(dense.weight * 2)
    assert_same_logits(model, model, PROMPT)
    assert graphs_of(model) != [before]
    model.bfloat16()
    assert_same_logits(model, model, PROMPT)


def test_quantising_releases_what_the_graphs_hold(device, random_model):
    model = random_model.to(device)
    assert_same_logits(model, model, PROMPT)
    weight = weakref.ref(model.transformer.layers[0].attention.dense.weight)
    model.quantize(8)
    gc.collect()
    assert weight() is None
    exact = copy.deepcopy(model)
    set_exact(exact)
    assert_same_logits(model, exact, PROMPT)


def test_a_model_with_graphs_is_released(device, random_model):
    model = copy.deepcopy(random_model).to(device)
    assert_same_logits(model, model, PROMPT)
    model = weakref.ref(model)
    gc.collect()
    assert model() is None
    assert not len(cuda_decode._decoders)


class Doubled(nn.Linear):
    """What an adapter library puts in place of a layer."""

    def forward(self, input):
        return 2 * super().forward(input)


def add_hook(model):
    model.transformer.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 2)


def replace_layer(model):
    dense = model.transformer.layers[1].attention.dense
    doubled = Doubled(dense.in_features, dense.out_features, device=dense.weight.device)
    doubled.load_state_dict(dense.state_dict())
    model.transformer.layers[1].attention.dense = doubled


def replace_forward(model):
    module = model.transformer.final_layernorm
    forward = module.forward
    module.forward = lambda input: forward(input) * 2


def be_exact(model):
    set_exact(model.quantize(8))


@pytest.mark.parametrize("change", [add_hook, replace_layer, replace_forward, be_exact])
def test_other_models_take_the_ordinary_pass(device, random_model, change):
    model = random_model.to(device)
    assert_same_logits(model, model, PROMPT)
    change(model)
    tokens = torch.tensor([[20, 21]], device=device)
    expected = without_graph(decode, model, PROMPT, tokens)
    assert torch.equal(decode(model, PROMPT, tokens), expected)
    assert not graphs_of(model)


def write_adapters(model, folder) -> dict:
    """Write a LoRA adapter and a prefix for a model; return their folders by name."""
    makers = {"lora": (adapters.add_lora, 2, 4.0), "prefix": (adapters.add_prefix, 3)}
    for name, (add, *sizes) in makers.items():
        changed = copy.deepcopy(model)
        add(changed, *sizes)
        with torch.no_grad():
            for parameter in filter(lambda one: one.requires_grad, changed.parameters()):
                parameter.normal_(std=0.5)
        adapters.save_adapter(changed, folder / name)
    return {name: folder / name for name in makers}


def test_adapters_exchanged_between_answers_are_noticed(device, random_model, mini_tokenizer, tmp_path):
    """Prompts of many lengths come after the base's answer: none is taken for one more token of that."""
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    base = random_model.to(device)
    folders, alone = write_adapters(base, tmp_path), {}
    prompts = [[*range(11, 11 + length), GMASK, SOP] for length in (7, 8, 9)]

    def answers(engine: Engine, ids: list[int], adapter: str | None = None) -> list:
        return list(engine.submit(Request(ids, 3, temperature=0, logprobs=1, ignore_eos=True, adapter=adapter)))

    for name in (None, *folders):
        model = copy.deepcopy(base)
        if name is not None:
            adapters.load_adapter(model, folders[name])
        engine = Engine(model, mini_tokenizer)
        alone[name] = [answers(engine, ids) for ids in prompts]
        assert bool(graphs_of(model)) == (name != "lora")
        engine.close()
    engine = Engine(base, mini_tokenizer, adapters=NamedAdapters(base, folders))
    try:
        for number, ids in enumerate(prompts):
            for name in (None, *folders):
                assert answers(engine, prompts[0]) == alone[None][0]
                assert answers(engine, ids, name) == alone[name][number]
    finally:
        engine.close()


def test_weights_of_several_number_types_or_devices_are_refused(device, random_model):
    model = random_model.to(device)
    assert cuda_decode.DecodeWeights.of(model, device) is not None
    assert cuda_decode.DecodeWeights.of(model, torch.device("cuda", 7)) is None
    model.transformer.layers[2].attention.dense.double()
    assert cuda_decode.DecodeWeights.of(model, device) is None
    model.double()
    assert cuda_decode.DecodeWeights.of(model, device) is None


def test_gradients_take_the_ordinary_pass(random_model):
    """On a device that could capture, too: `_is_open` says so."""
    assert not cuda_decode._is_open(torch.device("cuda"))  # gradients are enabled here
    cache = random_model(torch.tensor(PROMPT), use_cache=True).past_key_values
    assert random_model(torch.tensor([[20]]), past_key_values=cache).logits.requires_grad


def test_what_is_not_one_more_token_takes_the_ordinary_pass(random_model):
    with torch.no_grad():
        cache = random_model(torch.tensor(PADDED), use_cache=True).past_key_values
    assert cuda_decode._is_next_token(torch.tensor([[20]] * 3), cache)
    assert not cuda_decode._is_next_token(torch.tensor([[20, 21]] * 3), cache)
    assert not cuda_decode._is_next_token(torch.tensor([[20]]), cache)
    assert not cuda_decode._is_next_token(None, cache)
    assert not cuda_decode._is_next_token(torch.tensor([[20]] * 3), ChatGLMCache())
    cache.batch_repeat_interleave(11)  # 33 rows
    assert not cuda_decode._is_next_token(torch.tensor([[20]] * 33), cache)
    cache.layout = None
    assert not cuda_decode._is_next_token(torch.tensor([[20]] * 33), cache)


def test_a_failing_capture_is_said_once_and_the_answer_goes_on(device, random_model, monkeypatch, caplog):
    def capture(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    model = random_model.to(device)
    monkeypatch.setattr(cuda_decode.DecodeGraph, "capture", capture)
    monkeypatch.setattr(cuda_decode.logger, "propagate", True)
    tokens = torch.tensor([[20, 21, 22]], device=device)
    assert torch.equal(decode(model, PROMPT, tokens), without_graph(decode, model, PROMPT, tokens))
    (record,) = caplog.records
    assert "without a CUDA graph, slower: operation not permitted" in record.getMessage()


@pytest.mark.parametrize("hidden", [False, True], ids=["itself", "behind the end of the capture"])
def test_running_out_of_memory_pauses_graphs(device, random_model, monkeypatch, caplog, hidden):
    """They are tried again after some tokens, as memory comes and goes."""
    capture = cuda_decode.DecodeGraph.capture

    def fail_once(graph):
        monkeypatch.setattr(cuda_decode.DecodeGraph, "capture", capture)
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            if hidden:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
            raise

    model = random_model.to(device)
    monkeypatch.setattr(cuda_decode.DecodeGraph, "capture", fail_once)
    monkeypatch.setattr(cuda_decode, "TOKENS_WITHOUT", 2)
    monkeypatch.setattr(cuda_decode.logger, "propagate", True)
    tokens = torch.randint(5, 99, (1, 5), device=device)
    expected = without_graph(decode, model, PROMPT, tokens)
    torch.testing.assert_close(decode(model, PROMPT, tokens), expected, rtol=1e-4, atol=1e-4)
    assert len(caplog.records) == 1
    assert graphs_of(model), "graphs were given up"


def test_benchmark_builds_the_tied_matrix_once():
    """The device's peak counts what was ever there: another output layer would be 1.07 GB of the real model."""

    class Allocated(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if function._schema.name.startswith("aten::empty") and result.device.type == "cpu":
                self.bytes += result.numel() * result.element_size()
            return result

    config = ChatGLMConfig(num_layers=1, hidden_size=32, inner_hidden_size=128, num_attention_heads=2, vocab_size=4096)
    for bits in (0, 4):
        with Allocated() as allocated:
            model = build_model(config, bits, "cpu")
        assert model.lm_head.weight is model.transformer.word_embeddings.weight
        own = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()}
        assert allocated.bytes <= 1.05 * sum(own.values())


# -- on a GPU only -----------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_a_step_does_not_wait_for_the_device(random_model):
    model = random_model.cuda().half()
    token = torch.tensor([[20]], device="cuda")
    with torch.no_grad():
        cache = model(torch.tensor(PROMPT, device="cuda"), use_cache=True).past_key_values
        model(token, past_key_values=cache)  # captures
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                token = model(token, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert graphs_of(model)


@pytest.mark.cuda
@pytest.mark.parametrize(("bits", "limit"), [(0, 13e9), (8, 8e9), (4, 5e9)])
def test_memory_after_three_rounds(bits, limit):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    three_rounds(build_model(ChatGLMConfig(), bits))
    assert torch.cuda.max_memory_reserved() <= limit
