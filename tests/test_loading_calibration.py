"""Calibrated quantisation: what it gains over rounding, that the format stays, and the dialogues it reads."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
from replay import write_small_checkpoint

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.quantization import dequantize_weight, pack_int4, quantize_weight, set_exact, unpack_int4
from loading import calibration as module
from loading.calibration import Calibration, encode_dialogue, quantize_weight_calibrated, read_dialogues


def correlated_inputs(count: int, size: int) -> torch.Tensor:
    """Return inputs [count, size] of unequal size that mostly lie in an eighth of the directions."""
    return torch.randn(count, size // 8) @ torch.randn(size // 8, size) + 0.1 * torch.randn(count, size)


def output_error(weight: torch.Tensor, quantized: tuple[torch.Tensor, torch.Tensor], bits: int, inputs: torch.Tensor):
    """Return the mean squared change of a layer's outputs, in float64, for each row of its matrix."""
    difference = dequantize_weight(*quantized, bits).double() - weight.double()
    return (inputs.double() @ difference.T).square().mean(dim=0)


# -- one matrix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_weight_calibrated_halves_the_error_on_unseen_inputs(bits):
    torch.manual_seed(0)
    weight, inputs = torch.randn(60, 300), correlated_inputs(2000, 300)  # more columns than are rounded at once
    seen, unseen = inputs[:1000], inputs[1000:]
    calibrated = quantize_weight_calibrated(weight.half(), seen.T @ seen / len(seen), bits)
    nearest = quantize_weight(weight.half(), bits)
    for mine, other in zip(calibrated, nearest, strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
    error, rounding_error = (output_error(weight.half(), each, bits, unseen).mean() for each in (calibrated, nearest))
    assert error < 0.5 * rounding_error


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_weight_calibrated_without_correlation_rounds_to_nearest(bits):
    """Where columns have nothing to do with one another, there is nothing to make up for."""
    torch.manual_seed(0)
    weight, limit = torch.randn(20, 64), 2 ** (bits - 1) - 1
    packed, weight_scale = quantize_weight_calibrated(weight, torch.eye(64), bits)
    integers = (unpack_int4(packed) if bits == 4 else packed).float()
    assert torch.equal(integers, (weight / weight_scale.float()[:, None]).round().clamp(-limit, limit))
    error, rounding_error = (
        output_error(weight, each, bits, torch.eye(64))
        for each in ((packed, weight_scale), quantize_weight(weight, bits))
    )
    assert (error <= rounding_error * 1.01).all()  # the scale that rounding takes is among those tried


def test_quantize_weight_calibrated_is_near_the_best_of_all_integers(monkeypatch):
    monkeypatch.setattr(module, "SCALE_PARTS", (1.0,))
    torch.manual_seed(0)
    total, best_total, nearest_total = 0.0, 0.0, 0.0
    every = torch.tensor(list(itertools.product(range(-7, 8), repeat=4)), dtype=torch.float64)
    for _ in range(20):
        weight, inputs = torch.randn(1, 4), torch.randn(50, 2) @ torch.randn(2, 4) + 0.2 * torch.randn(50, 4)
        correlation = inputs.T @ inputs / 50
        differences, exact = every * quantize_weight(weight, 4)[1].double() - weight.double(), correlation.double()
        best_total += float(((differences @ exact) * differences).sum(dim=1).min())
        packed, weight_scale = quantize_weight_calibrated(weight, correlation, 4)
        total += float(output_error(weight, (packed, weight_scale), 4, inputs))
        nearest_total += float(output_error(weight, quantize_weight(weight, 4), 4, inputs))
    assert total - best_total < 0.4 * (nearest_total - best_total)


@pytest.mark.parametrize("size", [1, 12, module.ROWS_AT_ONCE + 5])
def test_error_factor_is_that_of_the_inverse(size):
    torch.manual_seed(0)
    inputs, order = torch.randn(100 + 8 * size, size), torch.randperm(size)
    correlation = inputs.T @ inputs / len(inputs)
    damped = correlation + module.DAMPING * correlation.diagonal().mean() * torch.eye(size)
    factor = module._error_factor(correlation, order)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor, damped[order][:, order].inverse(), atol=1e-4)


def test_scale_of_a_row_with_heavy_tails_is_smaller_where_that_errs_less():
    """Large weights of columns that matter little are cut off, in favour of columns that matter."""
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(4.0).sample((32, 256))
    inputs = torch.randn(1000, 256)
    inputs[:, :4] *= 20
    calibrated = quantize_weight_calibrated(weight, inputs.T @ inputs / 1000, 4)
    by_largest = weight.abs().amax(dim=1) / 7
    assert (calibrated[1].float() / by_largest).median() < 0.65
    least = torch.stack(  # as near as rounding comes with any scale
        [
            output_error(
                weight, (pack_int4((weight / scale[:, None]).round().clamp(-7, 7).char()), scale.half()), 4, inputs
            )
            for scale in (part / 10 * by_largest for part in range(3, 11))
        ]
    ).amin(dim=0)
    assert output_error(weight, calibrated, 4, inputs).sum() < least.sum()


def test_quantize_weight_calibrated_takes_rows_and_inputs_of_zeros():
    weight = torch.randn(3, 16)
    weight[1] = 0
    packed, weight_scale = quantize_weight_calibrated(weight, torch.zeros(16, 16), 4)
    assert weight_scale[1] == 0 and not packed[1].any()
    assert torch.equal(dequantize_weight(packed, weight_scale, 4)[1], torch.zeros(16))
    assert (dequantize_weight(packed, weight_scale, 4) - weight).abs().max() < weight.abs().max() / 7


@pytest.mark.parametrize(
    ("change", "bits", "message"),
    [
        ("weight", 4, "finite .* 1 rows"),
        ("inputs", 4, "inputs overflow"),
        (None, 3, "must be 4 or 8, got 3"),
        ("odd", 4, "even number of columns .* got 7"),
    ],
)
def test_quantize_weight_calibrated_refuses(change, bits, message):
    size = 7 if change == "odd" else 8
    weight, correlation = torch.ones(2, size), torch.eye(size)
    if change == "weight":
        weight[1, 3] = float("nan")
    if change == "inputs":
        correlation[2, 2] = float("inf")
    with pytest.raises(ValueError, match=message):
        quantize_weight_calibrated(weight, correlation, bits)


# -- the model --------------------------------------------------------------------------------------------------------


def examples(count: int, length: int, seed: int = 0) -> list[torch.Tensor]:
    """Return random prompts with answers for `random_model`."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 100, (count, length), generator=generator)
    return [torch.cat([row[:9], torch.tensor([101, 104]), row[9:]]) for row in words]


@torch.no_grad()
@pytest.mark.parametrize(("bits", "quantize_embeddings"), [(4, False), (4, True), (8, False)])
def test_calibrated_model_is_closer_to_the_float_one_on_unseen_dialogues(random_model, bits, quantize_embeddings):
    unseen, models = examples(4, 40, seed=1), [copy.deepcopy(random_model) for _ in range(2)]
    models[0].quantize(bits, quantize_embeddings)
    models[1].quantize(bits, quantize_embeddings, calibration=Calibration(examples(20, 60)))
    errors = []
    for model in models:
        set_exact(model)
        differences = [
            model.transformer(ids[None]).last_hidden_state - random_model.transformer(ids[None]).last_hidden_state
            for ids in unseen
        ]
        errors.append(float(torch.cat(differences, dim=1).norm()))
    assert errors[1] < (0.95 if quantize_embeddings else 0.8) * errors[0]
    for (name, expected), (other, actual) in zip(
        models[0].state_dict().items(), models[1].state_dict().items(), strict=True
    ):
        assert (name, expected.dtype, expected.shape) == (other, actual.dtype, actual.shape)
        if not name.startswith("transformer.layers") or "layernorm" in name or "bias" in name:
            assert torch.equal(expected, actual), name
    assert models[1].config.quantization_bit == bits


@torch.no_grad()
def test_blocks_are_calibrated_on_the_quantised_ones_before_them(random_model):
    calibration = Calibration(examples(3, 12))
    random_model.quantize(4, calibration=calibration)
    set_exact(random_model)
    for ids, last in zip(calibration.examples, calibration.inputs, strict=True):
        expected = random_model.transformer(ids[None]).last_hidden_state
        assert torch.allclose(random_model.transformer.final_layernorm(last.hidden_states), expected, atol=1e-4)


@torch.no_grad()
def test_half_precision_model_is_calibrated_in_float32(random_model):
    half = copy.deepcopy(random_model).half()
    rounded = copy.deepcopy(half).float()
    for model in (half, rounded):
        model.quantize(4, calibration=Calibration(examples(4, 12)))
    for name, weight in rounded.state_dict().items():
        assert torch.equal(half.state_dict()[name].to(weight.dtype), weight), name
    assert half.transformer.layers[0].input_layernorm.weight.dtype == torch.float16


def test_calibration_refuses_no_dialogues():
    with pytest.raises(ValueError, match="at least one dialogue"):
        Calibration([])


def test_calibration_refuses_a_prefix(random_model):
    config = ChatGLMConfig(**{**random_model.config.to_dict(), "pre_seq_len": 3})
    with pytest.raises(ValueError, match="P-Tuning prefix cannot be calibrated"):
        ChatGLMForConditionalGeneration(config).quantize(4, calibration=Calibration(examples(1, 12)))


# -- dialogues --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ChatGLMTokenizer:
    folder = tmp_path_factory.mktemp("calibration")
    write_small_checkpoint(folder)
    return ChatGLMTokenizer.from_pretrained(folder)


def write_lines(file, *lines) -> None:
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")


def test_read_dialogues_formats_them_as_chat_does(tmp_path, tokenizer):
    file = tmp_path / "dialogues.jsonl"
    history = [["你好", "你好！"]]
    write_lines(file, "\ufeff" + json.dumps({"prompt": "今天", "response": "hello"}), "")
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps({"prompt": "今天", "response": "hello", "history": history}) + "\n")
    first, second = read_dialogues(file, tokenizer)
    for ids, rounds in ((first, []), (second, history)):
        prompt, _ = tokenizer.encode_chat("今天", rounds)
        assert ids.tolist() == prompt + tokenizer.encode_text("hello") + [tokenizer.eos_token_id]
    assert torch.equal(second, encode_dialogue(tokenizer, "今天", "hello", history))


def test_read_dialogues_takes_the_chat_form(tmp_path, tokenizer):
    texts = [("user", "你好"), ("assistant", "你好！"), ("user", "今天"), ("assistant", "hello")]
    write_lines(tmp_path / "chat", {"messages": [{"role": role, "content": text} for role, text in texts]})
    (read,) = read_dialogues(tmp_path / "chat", tokenizer)
    assert torch.equal(read, encode_dialogue(tokenizer, "今天", "hello", [["你好", "你好！"]]))


def test_read_dialogues_stops_at_enough_tokens_and_cuts_long_ones(tmp_path, tokenizer):
    file = tmp_path / "dialogues.jsonl"
    write_lines(file, *[{"prompt": "今天", "response": "hello " * 2000}] * 5)
    read = read_dialogues(file, tokenizer, max_tokens=2 * module.LONGEST_DIALOGUE)
    assert [len(ids) for ids in read] == [module.LONGEST_DIALOGUE] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ([1], 'line 2 must be an object with "messages", or with the texts "prompt" and "response"'),
        ({"prompt": "今天"}, "line 2 must be an object"),
        ({"prompt": "今天", "response": 7}, "line 2 must be an object"),
        ({"prompt": "今天", "response": "", "history": [["a"]]}, 'line 2: "history" must be a list'),
        ({"prompt": "今天", "response": "", "history": 5}, 'line 2: "history" must be a list'),
        ({"messages": 5}, "line 2: a conversation must be a list"),
        ({"messages": [{"role": "user", "content": "今天"}]}, "line 2: the last message must be the assistant's"),
        ({"messages": [{"role": "cook", "content": "今天"}]}, "line 2: a message's role must be"),
    ],
)
def test_read_dialogues_names_the_line_that_is_wrong(tmp_path, tokenizer, line, message):
    file = tmp_path / "dialogues.jsonl"
    write_lines(file, {"prompt": "今天", "response": "hello"}, line)
    with pytest.raises(ValueError, match=message):
        read_dialogues(file, tokenizer)


def test_read_dialogues_refuses_an_empty_file(tmp_path, tokenizer):
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no dialogues"):
        read_dialogues(tmp_path / "empty", tokenizer)
