"""The model: the original's numbers, an independent computation, the cache, and the chat front end."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import json
import math
import threading

import numpy as np
import original
import pytest
import torch
from original import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, DynamicCache

from chatglm import (
    ChatGLMCache,
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    InvalidLogitsError,
    PromptTooLongError,
)
from chatglm import modeling_chatglm as modeling
from chatglm.cache import CACHE_NAME, CACHE_STEP, CausalOutput
from chatglm.generation_chatglm import decode, end_token_ids
from chatglm.positions import AttentionPlan, rotary_tables
from chatglm.quantization import set_exact
from chatglm.sampler import Sampler
from chatglm.sampling import Sampling

GMASK, SOP, EOP = 101, 104, 105  # of `random_model`


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "golden" / "forward.npz")


@pytest.fixture(scope="module")
def generation(reference):
    return json.loads((reference / "golden" / "generation.json").read_text(encoding="utf-8"))


# -- the original's numbers -------------------------------------------------------------------------------------------


def read_in_parts(model, input_ids, counts):
    """Return the logits [1, t, v] of ids that are read so many at a time, on the cache of those before."""
    cache, rows = None, []
    for part in input_ids.split(counts, dim=1):
        output = model(part, cache=cache, use_cache=True)
        cache = output.cache
        rows.append(output.logits)
    return torch.cat(rows, dim=1)


def prompt_length(model, input_ids):
    return int((input_ids[0] == model.config.bos_token_id).nonzero()) + 1


def prompt_then_tokens(model, input_ids):
    prompt = prompt_length(model, input_ids)
    return read_in_parts(model, input_ids, [prompt] + [1] * (input_ids.shape[1] - prompt))


def prompt_then_answer(model, input_ids):
    prompt = prompt_length(model, input_ids)
    answer = input_ids.shape[1] - prompt
    return read_in_parts(model, input_ids, [prompt, answer] if answer else [prompt])


READINGS = {
    "at once": lambda model, ids: model(ids, use_cache=False).logits,
    "a mask of ones": lambda model, ids: model(ids, attention_mask=torch.ones_like(ids)).logits,
    "probabilities returned": lambda model, ids: model(ids, output_attentions=True).logits,
    "twice in a batch": lambda model, ids: model(ids.repeat(2, 1)).logits[1:],
    "prompt, then answer": prompt_then_answer,
    "prompt, then tokens": prompt_then_tokens,
}


@torch.no_grad()
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("prompt", original.PROMPTS)
def test_forward_equals_original(small_model, prompt, reading):
    logits = READINGS[reading](small_model, original.FORWARD[f"{prompt}.input_ids"])
    assert_close(logits[0], original.FORWARD[f"{prompt}.logits"])


def batch_masks(input_ids):
    """Return the masks, with positions, that a padded batch may come with."""
    own = {name: original.FORWARD[f"batch.{name}"] for name in ("attention_mask", "position_ids")}
    return {"none": {}, "zeros and ones": {"attention_mask": (input_ids != 3).long()}, "the original's": own}


@torch.no_grad()
@pytest.mark.parametrize("mask", ["none", "zeros and ones", "the original's"])
def test_forward_padded_batch_equals_original(small_model, mask):
    input_ids = original.FORWARD["batch.input_ids"]
    logits = small_model(input_ids, **batch_masks(input_ids)[mask]).logits
    assert_close(logits[:, -1], original.FORWARD["batch.logits_last"])


def enable_checkpointing(model):
    """Let blocks be computed again in the backward pass; newer libraries call the method otherwise."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_original(small_model, checkpointing):
    model = copy.deepcopy(small_model)
    if checkpointing:
        enable_checkpointing(model)
        model.train()  # there is no dropout without a prefix
    loss = model(original.FORWARD["loss.input_ids"], labels=original.FORWARD["loss.labels"]).loss
    assert_close(loss, original.FORWARD["loss.value"])
    loss.backward()
    gradients = {name: value for name, value in original.FORWARD.items() if name.startswith("grad.")}
    assert len(gradients) == 14
    for name, expected in gradients.items():
        gradient = model.get_parameter(name.removeprefix("grad.")).grad
        assert_close(gradient[: len(expected)], expected)


def decode_alone(model, input_ids, max_length, attention_mask=None):
    """Return what the loop of `chat` decodes greedily, [b, t]."""
    samplers = [Sampler(Sampling(temperature=0)) for _ in input_ids]
    tokens = decode(
        model,
        input_ids,
        attention_mask,
        samplers,
        max_length - input_ids.shape[1],
        end_token_ids(model),
        model.config.pad_token_id,
    )
    return torch.cat([input_ids, torch.tensor(list(tokens)).T], dim=1)


def stream_to_the_end(model, input_ids, max_length):
    return list(model.stream_generate(input_ids, max_length=max_length, do_sample=False))[-1]


def generate_with(**arguments):
    return lambda model, ids, length: model.generate(ids, max_length=length, do_sample=False, **arguments)


WAYS = {
    "generate": generate_with(),
    "without cache": generate_with(use_cache=False),
    # transformers 5.0 adds a token beyond max_length at times, for its own models, too
    "prompt lookup": lambda model, ids, n: generate_with(prompt_lookup_num_tokens=3)(model, ids, n)[:, :n],
    "static cache": generate_with(cache_implementation="static"),
    "assistant": lambda model, ids, length: generate_with(assistant_model=model)(model, ids, length),
    "stream_generate": stream_to_the_end,
    "the loop of chat": decode_alone,
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_greedy_equals_original(small_model, way):
    assert original.greedy_answers(functools.partial(WAYS[way], small_model)) == original.GREEDY


@pytest.mark.parametrize("mask", ["none", "zeros and ones", "the original's"])
def test_generate_padded_batch_equals_original(small_model, mask):
    input_ids, case = original.FORWARD["batch.input_ids"], original.GENERATION["batch"]
    output = small_model.generate(
        input_ids, max_length=case["max_length"], do_sample=False, **batch_masks(input_ids)[mask]
    )
    assert output.tolist() == case["output_ids"]


@torch.no_grad()
def test_loop_of_chat_padded_batch_equals_original(small_model):
    input_ids, case = original.FORWARD["batch.input_ids"], original.GENERATION["batch"]
    output = decode_alone(small_model, input_ids, case["max_length"], (input_ids != 3).long())
    assert output.tolist() == case["output_ids"]


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_beams_equal_original(small_model, use_cache):
    case = original.GENERATION["beam3"]
    output = small_model.generate(
        torch.tensor([case["input_ids"]]),
        max_length=case["max_length"],
        num_beams=3,
        do_sample=False,
        use_cache=use_cache,
    )
    assert output[0].tolist() == case["output_ids"]


@pytest.fixture(params=original.PREFIXES)
def prefix_model(request, small_reference):
    """Return the name of a prefix of the original's, and the model with it in float32."""
    projection = request.param.endswith("True")
    config = ChatGLMConfig.from_pretrained(small_reference, pre_seq_len=5, prefix_projection=projection)
    model = ChatGLMForConditionalGeneration.from_pretrained(small_reference, config=config).float()
    weights = torch.load(small_reference / f"{request.param}.pt", weights_only=True)
    assert not model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=False).unexpected_keys
    return request.param, model.eval()


def test_prefix_forward_and_gradient_equal_original(prefix_model):
    name, model = prefix_model
    input_ids = original.FORWARD["loss.input_ids"]
    output = model(input_ids, labels=original.FORWARD["loss.labels"])
    assert_close(output.loss, original.FORWARD[f"{name}.loss"])
    assert_close(output.logits[0].detach(), original.FORWARD[f"{name}.logits"])
    with torch.no_grad():
        assert_close(prompt_then_tokens(model, input_ids)[0], original.FORWARD[f"{name}.logits"])
    output.loss.backward()
    expected = original.FORWARD[f"{name}.grad_embedding"]
    assert_close(model.transformer.prefix_encoder.embedding.weight.grad[: len(expected)], expected)


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_prefix_greedy_equals_original(prefix_model, way):
    name, model = prefix_model
    case = original.GENERATION[name]
    output = WAYS[way](model, torch.tensor([case["input_ids"]]), case["max_length"])
    assert output[0].tolist() == case["output_ids"]


def test_prefix_trains_alone_with_dropout(small_reference):
    config = ChatGLMConfig.from_pretrained(small_reference, pre_seq_len=4)
    model = AutoModel.from_pretrained(small_reference, config=config).float()
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == ["transformer.prefix_encoder.embedding.weight"]
    torch.nn.init.normal_(model.transformer.prefix_encoder.embedding.weight)
    ids = torch.tensor([[5, 48, 151, 154]])
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits), "dropout is off in training"
    dropped = (model.transformer.prefix_encoder(50, torch.float32)[0][0] == 0).float().mean().item()
    assert 0.05 < dropped < 0.15
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_half_formats_stay_near_original(small_model, dtype, tolerance):
    model = copy.deepcopy(small_model).to(dtype)
    for prompt in original.PROMPTS:
        with torch.no_grad():
            logits = model(original.FORWARD[f"{prompt}.input_ids"]).logits[0]
        assert logits.dtype == dtype
        assert_close(logits.float(), original.FORWARD[f"{prompt}.logits"], tolerance)
    assert model.generate(torch.tensor([[10, 151, 154]]), max_length=9, do_sample=False).shape == (1, 9)


# -- the same with the real vocabulary --------------------------------------------------------------------------------


def chat_cases(generation):
    return [case for case in generation if "chat_response" in case]


def test_forward_with_the_real_vocabulary_equals_original(tiny_model, golden):
    for prompt in original.PROMPTS:
        with torch.no_grad():
            logits = tiny_model(torch.tensor(golden[f"{prompt}.input_ids"])).logits[0]
        assert_close(logits[-1], torch.tensor(golden[f"{prompt}.logits_last"]).reshape(-1))


def test_chat_equals_original(tiny_model, tiny_tokenizer, generation):
    for case in chat_cases(generation):
        response, history = tiny_model.chat(
            tiny_tokenizer, case["query"], case["history"], max_length=len(case["output_ids"]), do_sample=False
        )
        assert response == case["chat_response"]
        assert history == [tuple(pair) for pair in case["history"]] + [(case["query"], response)]


def test_stream_chat_equals_original(tiny_model, tiny_tokenizer, generation):
    for case in chat_cases(generation):
        responses = [
            response
            for response, _ in tiny_model.stream_chat(
                tiny_tokenizer, case["query"], case["history"], max_length=len(case["output_ids"]), do_sample=False
            )
        ]
        assert responses == [*case["stream_responses"], case["chat_response"]]


def test_generate_takes_the_tokenizers_batch(tiny_model, tiny_tokenizer, generation):
    case = next(case for case in generation if "batch" in case)
    inputs = tiny_tokenizer(case["batch"], return_tensors="pt", padding=True)
    assert inputs["attention_mask"].dim() == 4
    expected = torch.tensor(case["output_ids"])
    assert torch.equal(tiny_model.generate(**inputs, max_length=expected.shape[1], do_sample=False), expected)


@pytest.mark.parametrize("case", ["int8", "int4", "int4_qe"])
def test_quantised_checkpoint_equals_reference(reference, tmp_path, case):
    weights = torch.load(reference / "tiny-chatglm" / "pytorch_model.bin", weights_only=True)
    quantised = torch.load(reference / "golden" / f"quantized_{case}.pt", weights_only=True)
    for name in ("transformer.word_embeddings.weight", "lm_head.weight"):
        quantised.setdefault(name, weights[name])
    torch.save(quantised, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((reference / "golden" / f"config_{case}.json").read_text())
    model = AutoModel.from_pretrained(tmp_path).float().eval()
    golden_quantised = np.load(reference / "golden" / "quantized.npz")
    input_ids = torch.tensor(golden_quantised[f"{case}.input_ids"])
    set_exact(model)
    # The original's numbers were computed before the scales were rounded to half precision for the file.
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            largest = weights[f"{name}.weight"].float().abs().amax(dim=-1)
            module.weight_scale.data = largest / (127 if case == "int8" else 7)
    with torch.no_grad():
        assert_close(model(input_ids).logits[0, -1], golden_quantised[f"{case}.logits_last"], 1e-4)
    expected = torch.tensor(golden_quantised[f"{case}.output_ids"])
    assert torch.equal(model.generate(input_ids, max_length=expected.shape[1], do_sample=False), expected)


# -- an independent computation ---------------------------------------------------------------------------------------


def naive_logits(model, ids):
    """Compute the logits of one sequence from the equations, token by token and head by head, in float64."""
    weights = {name: w.double() for name, w in model.state_dict().items()}
    config, n = model.config, len(ids)
    context, mask_position = ids.index(config.bos_token_id), ids.index(config.gmask_token_id)
    head = config.hidden_size // config.num_attention_heads
    inverse = (1 / 10000 ** (torch.arange(0, head // 2, 2).float() / (head // 2))).half().double()
    hidden = weights["transformer.word_embeddings.weight"][ids]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def rotate(vector, position, block):  # [head]
        halves = []
        for half, p in ((vector[: head // 2], position), (vector[head // 2 :], block)):
            a, b = half[: head // 4], half[head // 4 :]
            angle = p * inverse
            halves += [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
        return torch.cat(halves)

    for layer in range(config.num_layers):
        name = f"transformer.layers.{layer}"
        x = norm(hidden, f"{name}.input_layernorm")
        mixed = linear(x, f"{name}.attention.query_key_value").view(n, config.num_attention_heads, 3, head)
        attended = torch.zeros(n, config.num_attention_heads, head, dtype=torch.double)
        for h in range(config.num_attention_heads):
            positions = [(i, 0) if i < context else (mask_position, i - context + 1) for i in range(n)]
            queries = [rotate(mixed[i, h, 0], *positions[i]) for i in range(n)]
            keys = [rotate(mixed[i, h, 1], *positions[i]) for i in range(n)]
            for i in range(n):
                seen = range(max(context, i + 1) if i < context else i + 1)
                scores = torch.stack([queries[i] @ keys[j] for j in seen]) / math.sqrt(head)
                attended[i, h] = sum(p * mixed[j, h, 2] for p, j in zip(scores.softmax(0), seen, strict=True))
        x = x * math.sqrt(56) + linear(attended.reshape(n, -1), f"{name}.attention.dense")
        x = norm(x, f"{name}.post_attention_layernorm")
        inner = linear(x, f"{name}.mlp.dense_h_to_4h")
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        hidden = x * math.sqrt(56) + linear(inner, f"{name}.mlp.dense_4h_to_h")
    return linear(norm(hidden, "transformer.final_layernorm"), "lm_head")


SEQUENCES = [
    [10, 11, 12, GMASK, SOP],
    [20, GMASK, SOP, 30, 31, 32, 33],
    [40, 41, GMASK, 42, 43, SOP, 44],
    [GMASK, SOP, 50],
]


@pytest.mark.parametrize("ids", SEQUENCES)
def test_forward_equals_naive_computation(random_model, ids):
    with torch.no_grad():
        assert_close(random_model(torch.tensor([ids])).logits[0], naive_logits(random_model, ids).float(), 1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_forward_batch_of_unequal_contexts_equals_naive_computation(random_model, side):
    longest = max(map(len, SEQUENCES))
    rows, mask = [], []
    for ids in SEQUENCES:
        padding = [3] * (longest - len(ids))
        rows.append(padding + ids if side == "left" else ids + padding)
        mask.append([0] * len(padding) + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * len(padding))
    for attention_mask in (None, torch.tensor(mask)):
        with torch.no_grad():
            logits = random_model(torch.tensor(rows), attention_mask=attention_mask).logits
        assert torch.isfinite(logits).all()
        for row, ids in zip(logits, SEQUENCES, strict=True):
            own = row[-len(ids) :] if side == "left" else row[: len(ids)]
            assert_close(own, naive_logits(random_model, ids).float(), 1e-4)


def test_output_attentions_are_the_weights_that_are_used(random_model):
    ids = torch.tensor([SEQUENCES[1]])
    with torch.no_grad():
        output = random_model(ids, output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == 3 and len(output.hidden_states) == 4
    weights = output.attentions[0][0]  # [h, s, t]
    assert torch.allclose(weights.sum(-1), torch.ones(2, 7), atol=1e-5)
    assert (weights[:, :2, 2:] == 0).all(), "the prompt sees the answer"
    assert (weights[:, 3, 4:] == 0).all(), "an answer token sees a later one"
    attention = random_model.transformer.layers[0].attention
    x = random_model.transformer.layers[0].input_layernorm(output.hidden_states[0])
    value = attention.query_key_value(x).view(1, 7, 2, 3, 16)[..., 2, :].transpose(1, 2)
    expected = attention.dense((output.attentions[0] @ value).transpose(1, 2).reshape(1, 7, 32))
    rotary = rotary_tables(torch.tensor([[[0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 2, 3, 4, 5]]]), 16, torch.float32)
    plan = AttentionPlan(split=2, context=2)
    assert torch.allclose(attention(x, rotary, plan)[0], expected, atol=1e-4)


def test_gradient_checkpointing_changes_no_gradient(random_model):
    ids = torch.tensor([SEQUENCES[1]])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable_checkpointing(random_model)
        random_model.train().zero_grad()
        random_model(ids, labels=ids).loss.backward()
        gradients.append(random_model.transformer.layers[0].mlp.dense_h_to_4h.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5) and gradients[0].abs().max() > 0


def test_loss_divides_by_num_items_in_batch(random_model):
    ids = torch.tensor([SEQUENCES[1]])
    labels = torch.tensor([[-100, -100, -100, 30, 31, 32, 33]])
    mean = random_model(ids, labels=labels).loss
    assert torch.allclose(random_model(ids, labels=labels, num_items_in_batch=8).loss, mean / 2)


def test_first_release_layout(random_model):
    config = ChatGLMConfig(vocab_size=150528, bos_token_id=150004, eos_token_id=150005, pad_token_id=20003)
    assert (config.mask_token_id, config.gmask_token_id) == (150000, 150001)
    shifted = ChatGLMConfig(
        vocab_size=140, hidden_size=32, num_layers=3, num_attention_heads=2, bos_token_id=124, eos_token_id=125,
        pad_token_id=23,
    )  # fmt: skip
    other = ChatGLMForConditionalGeneration(shifted).eval()
    weights = {name: w.clone() for name, w in random_model.state_dict().items()}
    embedding = torch.cat([torch.zeros(20, 32), weights["transformer.word_embeddings.weight"]])
    weights["transformer.word_embeddings.weight"] = weights["lm_head.weight"] = embedding
    other.load_state_dict(weights)
    prompt = torch.tensor([[10, 11, GMASK, SOP], [3, 12, GMASK, SOP]])
    expected = random_model.generate(prompt, max_length=12, do_sample=False)
    output = other.generate(prompt + 20, max_length=12, do_sample=False)
    assert torch.equal(output - 20, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 36, "num_attention_heads": 2}, "multiple of 4 \\* num_attention_heads"),
        ({"quantization_bit": 3}, "quantization_bit must be 0, 4 or 8, got 3"),
        ({"position_encoding_2d": False}, "position_encoding_2d must be true"),
        ({"pre_seq_len": 0}, "pre_seq_len must be a whole number from 1 to 4096, got 0"),
    ],
)
def test_config_refuses_what_no_model_has(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChatGLMConfig(**arguments)


@pytest.mark.parametrize(("ids", "missing"), [([10, GMASK], "<sop>"), ([10, SOP], "\\[gMASK\\] or \\[MASK\\]")])
def test_prompt_without_control_tokens_is_an_error(random_model, ids, missing):
    with pytest.raises(ValueError, match=missing):
        random_model(torch.tensor([ids]))
    with pytest.raises(ValueError, match=missing):
        random_model.generate(torch.tensor([ids]), max_length=5)


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_cached_decoding_equals_full_forward_across_growth(random_model):
    torch.manual_seed(1)
    ids = torch.cat([torch.tensor([[10, 11, GMASK, SOP]]), torch.randint(4, 100, (1, 600))], dim=1)
    with torch.no_grad():
        full = random_model(ids).logits[0]
        cache, position, rows = None, 0, []
        for count in (4, 1, 1, 250, 1, 1, 1, 255, 1, 1, 85, 1, 1, 1):
            output = random_model(ids[:, position : position + count], cache=cache, use_cache=True)
            cache, position = output.cache, position + count
            rows.append(output.logits[0])
    assert position == 604 == cache.get_seq_length()
    assert_close(torch.cat(rows), full, 1e-4)


def test_cache_does_not_move_within_a_step(random_model):
    prompt = torch.tensor([[10, 11, GMASK, SOP]])
    with torch.no_grad():
        cache = random_model(prompt, use_cache=True).cache
        places = set()
        for token in range(CACHE_STEP - 4):
            random_model(torch.tensor([[token % 90 + 4]]), cache=cache, use_cache=True)
            places.add(cache.keys[0].data_ptr())
        assert len(places) == 1 and cache.keys[0].shape[2] == CACHE_STEP
        random_model(torch.tensor([[7]]), cache=cache, use_cache=True)
    assert cache.keys[0].shape[2] == 2 * CACHE_STEP


def test_cache_crop_select_and_repeat(random_model):
    rows = torch.tensor([[10, 11, GMASK, SOP, 20], [3, 12, GMASK, SOP, 21]])
    with torch.no_grad():
        cache = random_model(rows, use_cache=True).cache
        cache.crop(-1)
        assert cache.get_seq_length() == 4
        cache.crop(4)
        assert cache.get_seq_length() == 4
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([2, 1, 0, 3]))  # rows 1, 0, 0, 1
        logits = random_model(torch.tensor([[21], [20], [20], [21]]), cache=cache).logits[:, 0]
        expected = random_model(rows).logits[:, -1]
    assert_close(logits, expected[[1, 0, 0, 1]], 1e-4)


def test_cache_of_another_class_is_taken_over(random_model):
    prompt, answer = torch.tensor([[10, 11, GMASK, SOP]]), torch.tensor([[10, 11, GMASK, SOP, 20]])
    with torch.no_grad():
        expected = random_model(answer).logits[0, -1]
        own = random_model(prompt, use_cache=True).cache
        foreign = DynamicCache()
        for layer, (key, value) in enumerate(own):
            foreign.update(key.clone(), value.clone(), layer)
        pairs = tuple((key.clone(), value.clone()) for key, value in own)
        for past in (pairs, foreign if hasattr(foreign, "key_cache") or hasattr(foreign, "layers") else pairs):
            inputs = random_model.prepare_inputs_for_generation(answer, cache=past)
            assert inputs["input_ids"].tolist() == [[20]]
            assert_close(random_model(**inputs).logits[0, -1], expected, 1e-4)


def test_generate_returns_the_growing_cache(random_model):
    output = random_model.generate(
        torch.tensor([[10, GMASK, SOP]]), max_length=9, do_sample=False, return_dict_in_generate=True, eos_token_id=119
    )
    cache = getattr(output, CACHE_NAME)
    assert isinstance(cache, ChatGLMCache)
    assert cache.get_seq_length() == output.sequences.shape[1] - 1


class MaskRecorder:
    """Stands in for scaled_dot_product_attention and notes the mask's shape."""

    def __init__(self, original):
        self.original, self.shapes = original, []

    def __call__(self, query, key, value, attn_mask=None, **kwargs):
        self.shapes.append(None if attn_mask is None else tuple(attn_mask.shape))
        return self.original(query, key, value, attn_mask=attn_mask, **kwargs)


@pytest.fixture
def masks(monkeypatch):
    recorder = MaskRecorder(modeling.F.scaled_dot_product_attention)
    monkeypatch.setattr(modeling.F, "scaled_dot_product_attention", recorder)
    return recorder


def test_no_mask_is_made_for_a_single_prompt(random_model, masks):
    random_model.generate(torch.tensor([[10, 11, 12, GMASK, SOP]]), max_length=12, do_sample=False)
    assert masks.shapes and set(masks.shapes) == {None}


def test_padded_batch_needs_one_row_of_mask(random_model, masks):
    random_model.generate(torch.tensor([[10, 11, GMASK, SOP], [3, 12, GMASK, SOP]]), max_length=12, do_sample=False)
    assert all(shape[:3] == (2, 1, 1) for shape in masks.shapes)


class TransferCounter(TorchDispatchMode):
    """Counts reads of a device value by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("padded", [False, True])
def test_a_decode_step_reads_nothing_back(random_model, monkeypatch, padded):
    prompt = torch.tensor([[10, 11, GMASK, SOP], [3 if padded else 13, 12, GMASK, SOP]])
    with torch.no_grad():
        cache = random_model(prompt, use_cache=True).cache
        monkeypatch.setattr(torch.Tensor, "tolist", None)
        monkeypatch.setattr(torch.Tensor, "numpy", None)
        with TransferCounter() as counter:
            random_model(torch.tensor([[20], [21]]), cache=cache, use_cache=True)
        assert counter.count == 0
        with TransferCounter() as counter:
            assert torch.tensor([1]).sum().item() == 1
        assert counter.count == 1


def test_generate_computes_last_logits_only(random_model):
    counts = []
    random_model.lm_head.register_forward_hook(lambda module, inputs, output: counts.append(inputs[0].shape[1]))
    random_model.generate(torch.tensor([[10, 11, 12, GMASK, SOP]]), max_length=10, do_sample=False)
    assert counts and set(counts) == {1}


# -- generation --------------------------------------------------------------------------------------------------------


def test_batch_gives_what_each_prompt_gives_alone(mini_model, mini_tokenizer):
    queries = ["你好", "晚上睡不着应该怎么办", "Hello, world! How are you?", "写一封邮件，向老板请假三天，语气诚恳。"]
    alone = [
        mini_model.generate(torch.tensor([mini_tokenizer.encode_prompt(q)]), max_new_tokens=12, do_sample=False)[
            0, -12:
        ]
        for q in queries
    ]
    together = mini_model.generate(
        **mini_tokenizer(queries, return_tensors="pt", padding=True), max_new_tokens=12, do_sample=False
    )[:, -12:]
    assert torch.equal(together, torch.stack(alone))


def test_seed_reproduces_a_sample(mini_model, mini_tokenizer):
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(mini_model.chat(mini_tokenizer, "你好", max_length=30, temperature=3.0, top_p=1.0)[0])
    assert answers[0] == answers[1] != answers[2]


def test_temperature_zero_is_greedy(mini_model, mini_tokenizer):
    greedy = mini_model.chat(mini_tokenizer, "你好", max_length=20, do_sample=False)[0]
    for seed in range(3):
        torch.manual_seed(seed)
        assert mini_model.chat(mini_tokenizer, "你好", max_length=20, temperature=0)[0] == greedy
        assert list(mini_model.stream_chat(mini_tokenizer, "你好", max_length=20, temperature=0))[-1][0] == greedy


def test_repetition_penalty_reaches_the_sampler(mini_model, mini_tokenizer):
    question = "晚上睡不着应该怎么办"

    def ids(**kwargs):
        answer = mini_model.chat(mini_tokenizer, question, max_length=28, do_sample=False, **kwargs)[0]
        return mini_tokenizer.encode_text(answer)

    plain, penalised = ids(), ids(repetition_penalty=10.0)
    assert len(set(penalised)) > len(set(plain))
    arguments = {"max_length": 28, "do_sample": False, "repetition_penalty": 10.0}
    streamed = list(mini_model.stream_chat(mini_tokenizer, question, **arguments))
    assert mini_tokenizer.encode_text(streamed[-1][0]) == penalised


def test_max_new_tokens_counts_the_answer_only(mini_model, mini_tokenizer):
    length = len(mini_tokenizer.encode_prompt("你好")) + 2
    short = mini_model.chat(mini_tokenizer, "你好", do_sample=False, max_length=length)[0]
    assert mini_model.chat(mini_tokenizer, "你好", do_sample=False, max_new_tokens=2)[0] == short
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        mini_model.chat(mini_tokenizer, "你好", max_new_tokens=0)


def test_answer_stays_in_one_language(mini_model, mini_tokenizer):
    chinese = mini_model.chat(mini_tokenizer, "Hello", do_sample=False, max_length=40, language="zh")[0]
    english = mini_model.chat(mini_tokenizer, "你好", do_sample=False, max_length=40, language="en")[0]
    assert english and not any("\u4e00" <= c <= "\u9fff" for c in english)
    assert chinese and not any(c.isascii() and c.isalpha() for c in chinese)
    with pytest.raises(ValueError, match="language must be zh or en, got fr"):
        mini_model.chat(mini_tokenizer, "你好", language="fr")


@pytest.mark.parametrize(
    ("inputs", "message"), [({"position_ids": torch.zeros(1, 2, 4, dtype=torch.long)}, "tokenizer's position_ids")]
)
def test_generate_refuses_foreign_positions(random_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        random_model.generate(torch.tensor([[10, 11, GMASK, SOP]]), max_length=6, **inputs)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("way", [{"do_sample": False}, {"do_sample": True}, {"do_sample": False, "num_beams": 2}])
def test_poisoned_weight_ends_with_an_error(random_model, number, way):
    with torch.no_grad():
        random_model.transformer.layers[1].mlp.dense_h_to_4h.weight[5, 5] = number
    with pytest.raises(InvalidLogitsError, match="damaged or wrongly converted weights"):
        random_model.generate(torch.tensor([[10, 11, GMASK, SOP]]), max_length=30, **way)


def test_poisoned_weight_ends_chat_and_stream_with_an_error(mini_model, mini_tokenizer):
    model = copy.deepcopy(mini_model)
    with torch.no_grad():
        model.transformer.layers[0].attention.dense.bias[0] = math.nan
    with pytest.raises(InvalidLogitsError):
        model.chat(mini_tokenizer, "你好")
    with pytest.raises(InvalidLogitsError):
        list(model.stream_chat(mini_tokenizer, "你好"))


# -- chat --------------------------------------------------------------------------------------------------------------


class Replay(ChatGLMForConditionalGeneration):
    """Answers every prompt with given ids, and notes the prompts."""

    def replay(self, ids):
        self.ids, self.prompts = [*ids, self.config.eos_token_id], []
        return self

    def forward(self, input_ids, attention_mask=None, use_cache=None, cache=None, logits_to_keep=0):
        if not isinstance(cache, itertools.count):
            self.prompts.append(input_ids[0].tolist())
            cache = itertools.count()
        logits = torch.zeros(1, 1, self.config.vocab_size)
        logits[0, 0, self.ids[next(cache)]] = 100.0
        return CausalOutput(logits=logits, **{CACHE_NAME: cache})


@pytest.fixture
def replay(mini_model):
    sizes = {"hidden_size": 8, "inner_hidden_size": 32, "num_layers": 1, "num_attention_heads": 1}
    return Replay(ChatGLMConfig.from_dict(mini_model.config.to_dict() | sizes)).eval()


@pytest.mark.parametrize("text", ["👋🎉 rare 𠮷 字", "a👩‍👩‍👧b", "你好，世界！", "def f(x):\n    return x", "𠮷" * 5])
def test_stream_shows_no_half_characters_and_takes_nothing_back(replay, mini_tokenizer, text):
    ids = mini_tokenizer.encode_text(text)
    shown = ""
    for response, _ in replay.replay(ids).stream_chat(mini_tokenizer, "x", map_punctuation=False):
        assert "\ufffd" not in response
        assert response.startswith(shown.rstrip())
        shown = response
    assert shown == mini_tokenizer.decode(ids).strip()
    assert shown == replay.chat(mini_tokenizer, "x", map_punctuation=False)[0]


def test_stream_takes_back_nothing_even_where_punctuation_changes(replay, mini_tokenizer):
    ids = mini_tokenizer.encode_text("你好,世界!对吗?价格:100;")
    shown = ""
    for response, _ in replay.replay(ids).stream_chat(mini_tokenizer, "x"):
        assert response.startswith(shown)
        shown = response
    assert shown == "你好，世界！对吗？价格：100;"


def test_stream_ends_with_the_last_token_at_the_length_limit(replay, mini_tokenizer):
    ids = mini_tokenizer.encode_text("合肥市 realtime在评论区")
    limit = len(mini_tokenizer.encode_prompt("x")) + 2
    responses = [r for r, _ in replay.replay(ids).stream_chat(mini_tokenizer, "x", max_length=limit)]
    assert responses[-1] == mini_tokenizer.decode(ids[:2]) == replay.chat(mini_tokenizer, "x", max_length=limit)[0]


def test_closing_a_stream_ends_the_generation(mini_model, mini_tokenizer):
    calls = []
    handle = mini_model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    stream = mini_model.stream_chat(mini_tokenizer, "你好", do_sample=False, max_length=2048)
    next(stream)
    stream.close()
    handle.remove()
    whole = mini_model.chat(mini_tokenizer, "你好", do_sample=False)[0]
    assert len(calls) < 5 < len(mini_tokenizer.encode_text(whole))
    assert not [t for t in threading.enumerate() if t.name == "chatglm-generate"]


@pytest.mark.parametrize("text", ["[gMASK] <sop> <eop>", "<sop>你好<eop>[MASK]", "a [gMASK]"])
def test_typed_control_tokens_are_text(replay, mini_tokenizer, text):
    replay.replay(mini_tokenizer.encode_text("ok")).chat(mini_tokenizer, text, [(text, text)])
    prompt = replay.prompts[0]
    assert prompt[-2:] == [mini_tokenizer.gmask_token_id, mini_tokenizer.bos_token_id]
    control_tokens = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    assert not set(prompt[:-2]) & set(mini_tokenizer.convert_tokens_to_ids(control_tokens))
    assert text in mini_tokenizer.decode(prompt[:-2])


def test_oldest_rounds_are_dropped_and_told(replay, mini_tokenizer):
    history = [(f"问题{i}" * 20, f"回答{i}" * 20) for i in range(30)]
    query, dropped = "最新的问题" * 10, []
    replay.replay(mini_tokenizer.encode_text("ok"))
    response, new_history = replay.chat(
        mini_tokenizer, query, history, max_length=400, on_dropped_rounds=dropped.append
    )
    assert len(replay.prompts[0]) < 400
    text = mini_tokenizer.decode(replay.prompts[0])
    assert query in text and history[-1][0] in text and history[0][0] not in text
    assert dropped == [30 - text.count("[Round") + 1]
    assert new_history == [*history, (query, response)]
    replay.chat(mini_tokenizer, query, history[:1], on_dropped_rounds=dropped.append)
    assert len(dropped) == 1, "told, though nothing was dropped"


def test_question_longer_than_the_limit_is_an_error(mini_model, mini_tokenizer):
    with pytest.raises(PromptTooLongError, match="reduce the length"):
        mini_model.chat(mini_tokenizer, "很长的问题" * 100, max_length=50)
    with pytest.raises(PromptTooLongError):
        list(mini_model.stream_chat(mini_tokenizer, "字" * 50000, max_length=100000))


@pytest.mark.parametrize("history", [None, [], [("q", "a")], [["q", "a"]], [[None, "a"]]])
def test_history_forms_of_existing_clients(replay, mini_tokenizer, history):
    replay.replay(mini_tokenizer.encode_text("ok"))
    response, new_history = replay.chat(mini_tokenizer, "x", history, max_length=10000, temperature=0.01)
    assert response == "ok" and new_history[-1] == ("x", "ok") and len(new_history) == len(history or []) + 1
    for response, new_history in replay.stream_chat(mini_tokenizer, query="x", history=history, top_p=0.7):
        assert isinstance(new_history, list) and new_history[-1] == ("x", response)


@pytest.mark.long
def test_memory_stays_flat_over_80_turns(mini_model, mini_tokenizer):
    history, sizes = [], []
    for turn in range(80):
        _, history = mini_model.chat(
            mini_tokenizer, f"第{turn}个问题", history, max_length=96, max_new_tokens=2, do_sample=False
        )
        if turn in (20, 79):
            gc.collect()
            sizes.append(sum(t.numel() for t in gc.get_objects() if type(t) is torch.Tensor))
    assert len(history) == 80
    assert sizes[1] <= sizes[0]


def test_process_response_equals_original(reference):
    cases = json.loads((reference / "golden" / "tokenizer.json").read_text(encoding="utf-8"))["process_response"]
    for case in cases:
        assert ChatGLMForConditionalGeneration.process_response(case["in"]) == case["out"]
    assert ChatGLMForConditionalGeneration.process_response(' {"名":"值"} ', map_punctuation=False) == '{"名":"值"}'
