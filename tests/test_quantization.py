"""Quantisation: the original's bytes, the quantised layers, loading and saving, and the errors."""

from __future__ import annotations

import copy
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from chatglm import ChatGLMForConditionalGeneration, cpu_kernels
from chatglm import quantization as module
from chatglm.quantization import (
    OutputLinear,
    QuantizedEmbedding,
    QuantizedLinear,
    StoredEmbedding,
    dequantize_weight,
    linear_reference,
    pack_int4,
    quantize_weight,
    quantized_linear,
    set_exact,
    unpack_int4,
)

KINDS = ("int8", "int4", "int4_qe")
NUMBER_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def source_weights(reference):
    return torch.load(reference / "tiny-chatglm" / "pytorch_model.bin", weights_only=True)


@pytest.fixture(scope="module")
def quantized_weights(reference):
    golden = reference / "golden"
    return {kind: torch.load(golden / f"quantized_{kind}.pt", weights_only=True) for kind in KINDS}


@pytest.fixture
def no_kernels(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "library", lambda: None)


def quantize_by_pytorch(weight, bits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_kernels, "available", lambda dtype: False)
        return quantize_weight(weight, bits)


def relative_error(actual, expected):
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    return float((actual - expected).norm() / expected.norm())


def by_hand(packed, weight_scale, bits):
    """Unpack with NumPy's bytes, independently of the module's shifts."""
    data = packed.numpy().view(np.uint8).astype(np.int64)
    if bits == 4:
        nibbles = np.stack([data // 16, data % 16], axis=-1).reshape(len(data), -1)
        signed = np.where(nibbles > 7, nibbles - 16, nibbles)
    else:
        signed = np.where(data > 127, data - 256, data)
    return signed * weight_scale.numpy().astype(np.float64)[:, None]


# -- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", [quantize_weight, quantize_by_pytorch])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_quantize_weight_equals_reference(source_weights, quantized_weights, kind, dtype, quantizer):
    matrices = [name for name, value in quantized_weights[kind].items() if value.dtype == torch.int8]
    assert len(matrices) == 8 + 2 * (kind == "int4_qe")
    for name in matrices:
        packed, weight_scale = quantizer(source_weights[name].to(dtype), int(kind[3]))
        assert torch.equal(packed, quantized_weights[kind][name])
        assert torch.equal(weight_scale, quantized_weights[kind][f"{name}_scale"])


def test_pack_int4_puts_the_even_column_into_the_high_nibble():
    packed = pack_int4(torch.tensor([[7, -1, -3, 2]], dtype=torch.int8))
    assert packed.view(torch.uint8).tolist() == [[0x7F, 0xD2]]


def test_unpack_int4_inverts_every_byte():
    every_byte = torch.arange(256, dtype=torch.uint8).view(torch.int8)[None]
    assert torch.equal(pack_int4(unpack_int4(every_byte)), every_byte)
    assert unpack_int4(every_byte).min() == -8 and unpack_int4(every_byte).max() == 7


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_quantize_weight_equals_its_reference_on_rough_rows(bits, dtype):
    torch.manual_seed(0)
    weight = torch.randn(70, 1030).to(dtype)
    weight[3], weight[5], weight[7, ::2] = 0, weight[5] * 1e-6, 0
    for actual, expected in zip(quantize_weight(weight, bits), quantize_by_pytorch(weight, bits), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_dequantize_weight_equals_the_format_by_hand(bits):
    torch.manual_seed(0)
    weight = torch.randn(9, 64)
    packed, weight_scale = quantize_weight(weight, bits)
    assert np.array_equal(dequantize_weight(packed, weight_scale, bits).double(), by_hand(packed, weight_scale, bits))
    largest_step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((dequantize_weight(packed, weight_scale, bits) - weight).abs() <= 0.51 * largest_step).all()


@pytest.mark.parametrize("bits", [0, 2, 3, 16])
def test_quantize_refuses_other_bits(random_model, bits):
    with pytest.raises(ValueError, match=f"quantization_bit must be 4 or 8, got {bits}"):
        random_model.quantize(bits)
    with pytest.raises(ValueError, match="must be 4 or 8"):
        quantize_weight(torch.ones(2, 2), bits)


def test_quantize_weight_refuses_odd_columns_with_4_bits():
    with pytest.raises(ValueError, match="even number of columns .* got 7"):
        quantize_weight(torch.ones(2, 7), 4)
    assert quantize_weight(torch.ones(2, 7), 8)[0].shape == (2, 7)


@pytest.mark.parametrize("quantizer", [quantize_weight, quantize_by_pytorch])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_quantize_weight_refuses_what_has_no_scale(quantizer, value):
    weight = torch.ones(3, 16)
    weight[1, 5] = value
    with pytest.raises(ValueError, match="finite .* 1 rows"):
        quantizer(weight, 4)


def test_quantize_refuses_a_quantised_model(random_model):
    random_model.quantize(8)
    with pytest.raises(ValueError, match="has 8-bit weights; load the float checkpoint"):
        random_model.quantize(4)


# -- the layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["kernels", "PyTorch", "exact"])
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_linear_is_close_to_exact_arithmetic(request, bits, dtype, kernels):
    if kernels == "PyTorch":
        request.getfixturevalue("no_kernels")
    torch.manual_seed(0)
    packed, weight_scale = quantize_weight(torch.randn(96, 640), bits)
    input, bias = torch.randn(2, 3, 640).to(dtype), torch.randn(96).to(dtype)
    expected = input.double() @ torch.from_numpy(by_hand(packed, weight_scale, bits)).T + bias.double()
    output = quantized_linear(input, packed, weight_scale, bits, bias, exact=kernels == "exact")
    assert output.dtype == dtype and output.shape == (2, 3, 96)
    rounding = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert relative_error(output, expected) < (0.01 if kernels == "kernels" else rounding)


def test_quantized_linear_refuses_another_width():
    packed, weight_scale = quantize_weight(torch.ones(4, 8), 4)
    with pytest.raises(ValueError, match="must have 8 features, got 6"):
        quantized_linear(torch.ones(1, 6), packed, weight_scale, 4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_linear_gradient_equals_that_of_the_unpacked_matrix(bits, exact):
    torch.manual_seed(0)
    packed, weight_scale = quantize_weight(torch.randn(48, 64), bits)
    input, bias = torch.randn(2, 5, 64, requires_grad=True), torch.randn(48, requires_grad=True)
    seed = torch.randn(2, 5, 48)
    quantized_linear(input, packed, weight_scale, bits, bias, exact).backward(seed)
    matrix = torch.from_numpy(by_hand(packed, weight_scale, bits)).float()
    assert float((input.grad - seed @ matrix).norm() / (seed @ matrix).norm()) < (1e-6 if exact else 5e-5)
    assert torch.allclose(bias.grad, seed.sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_quantized_layers_keep_half_precision_scales():
    linear = QuantizedLinear.from_linear(nn.Linear(8, 6), 4)
    before = linear.weight_scale.clone()
    for dtype in (torch.bfloat16, torch.float32):
        linear.to(dtype)
        assert linear.bias.dtype == dtype
        assert linear.weight_scale.dtype == torch.float16 and torch.equal(linear.weight_scale, before)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_embedding_returns_the_unpacked_rows(bits):
    torch.manual_seed(0)
    embedding = nn.Embedding(10, 6)
    quantized = QuantizedEmbedding.from_embedding(embedding, bits)
    rows = by_hand(*quantize_weight(embedding.weight.detach(), bits), bits)
    ids = torch.tensor([[0, 9, 3], [3, 3, 1]])
    assert np.allclose(quantized(ids), rows[ids.numpy()], rtol=1e-6)
    assert quantized.to(torch.bfloat16)(ids).dtype == torch.bfloat16


# -- the float embedding and output layer of a quantised model --------------------------------------------------------


def mapped_embedding(folder, rows=5000, columns=64):
    torch.manual_seed(0)
    weight = torch.randn(rows, columns).half()
    save_file({"weight": weight}, folder / "embedding.safetensors")
    embedding = nn.Embedding(rows, columns, device="meta")
    embedding.weight = nn.Parameter(load_file(folder / "embedding.safetensors")["weight"])
    return weight, StoredEmbedding.from_embedding(embedding)


@torch.no_grad()
def test_stored_embedding_reads_rows_from_the_mapped_file(tmp_path):
    weight, stored = mapped_embedding(tmp_path)
    ids = torch.tensor([[0, 4999, 17], [17, 1, 2]])
    stored.to(torch.float32)
    assert stored.weight.dtype == torch.float16  # what is stored stays
    assert stored(ids).dtype == torch.float32 and torch.equal(stored(ids), weight[ids].float())
    if Path("/proc/self/smaps").exists():
        assert stored._find_file_rows().file == str(tmp_path / "embedding.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("change", ["moved", "replaced", "written to"])
def test_stored_embedding_survives_changes_of_its_file(tmp_path, change):
    weight, stored = mapped_embedding(tmp_path)
    ids = torch.tensor([5, 7])
    assert torch.equal(stored(ids), weight[ids])
    if change == "written to":
        stored.weight[5] = 1
        weight[5] = 1
    else:
        (tmp_path / "embedding.safetensors").rename(tmp_path / "elsewhere")
        if change == "replaced":
            save_file({"weight": torch.zeros_like(weight)}, tmp_path / "embedding.safetensors")
    assert torch.equal(stored(ids), weight[ids])


@torch.no_grad()
@pytest.mark.parametrize(("bits", "error"), [(8, 0.015), (4, 0.2)])
def test_output_linear_takes_the_exact_largest_logit(bits, error):
    torch.manual_seed(0)
    linear = nn.Linear(256, 3000, bias=False)
    linear.weight[1000:1200] = linear.weight[7] + 0.002 * torch.randn(200, 256)  # hard to tell apart in 8 bits
    output = OutputLinear.from_linear(linear, bits)
    input = torch.cat([torch.randn(20, 256), linear.weight[7] + 0.1 * torch.randn(40, 256)])
    expected, logits = linear(input), output(input)
    assert relative_error(logits, expected) < error
    assert torch.equal(logits.argmax(dim=-1), expected.argmax(dim=-1))
    largest = expected.amax(dim=-1)
    assert torch.allclose(logits.amax(dim=-1), largest, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_output_linear_has_the_exact_chances_of_what_is_likely(bits):
    torch.manual_seed(0)
    linear, input = nn.Linear(256, 3000, bias=False), 10 * torch.randn(50, 256)
    output = OutputLinear.from_linear(linear, bits)
    expected, logits = linear(input), output(input)
    likely = expected > expected.amax(dim=-1, keepdim=True) - 4
    assert likely.sum() > 100
    assert torch.allclose(logits[likely], expected[likely], rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_output_linear_scores_many_positions_by_the_float_weights():
    linear, hidden = nn.Linear(64, 100, bias=False), torch.randn(2, 9, 64)
    assert torch.equal(OutputLinear.from_linear(linear, 4)(hidden), linear(hidden))


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_output_linear_refines_a_row_whatever_its_neighbours_are(bits):
    torch.manual_seed(0)
    linear = nn.Linear(256, 3000, bias=False)
    linear.weight[1000:1600] = linear.weight[7] + 0.002 * torch.randn(600, 256)  # too many to be computed again
    output, crowded = OutputLinear.from_linear(linear, bits), linear.weight[7] + 0.01 * torch.randn(1, 256)
    rows = torch.cat([crowded, torch.randn(3, 256), crowded])  # with more than six, AVX-512 adds in another order
    assert torch.equal(output(rows), torch.cat([output(row[None]) for row in rows]))


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_output_linear_takes_a_part_of_the_hidden_states(bits):
    """As `logits_to_keep` cuts it out of a batch, where it is not contiguous."""
    output, hidden = OutputLinear.from_linear(nn.Linear(64, 100, bias=False), bits), torch.randn(3, 9, 64)
    assert torch.equal(output(hidden[:, -4:]), output(hidden[:, -4:].contiguous()))


@torch.no_grad()
def test_output_linear_follows_changes_of_its_weight():
    torch.manual_seed(0)
    output, input = OutputLinear.from_linear(nn.Linear(64, 100, bias=False), 8), torch.randn(1, 64)
    before = output(input)
    output.weight.mul_(2)
    assert relative_error(output(input), 2 * before) < 0.02


def test_output_linear_is_differentiable():
    torch.manual_seed(0)
    output, input = (
        OutputLinear.from_linear(nn.Linear(64, 100, bias=False).half(), 4),
        torch.randn(2, 64, requires_grad=True),
    )
    output(input).sum().backward()
    assert torch.allclose(input.grad, output.weight.float().sum(dim=0).expand(2, -1), atol=1e-3)


# -- the model --------------------------------------------------------------------------------------------------------


def checkpoint(folder, reference, source_weights, quantized_weights, kind, file="model.safetensors"):
    """Write a published quantised checkpoint's likeness."""
    weights = dict(quantized_weights[kind])
    if kind != "int4_qe":
        weights |= {name: source_weights[name] for name in ("transformer.word_embeddings.weight", "lm_head.weight")}
    shutil.copy(reference / "golden" / f"config_{kind}.json", folder / "config.json")
    if file == "pytorch_model.bin":
        torch.save(weights, folder / file)
    else:
        own = {name: value.clone() for name, value in weights.items() if not name.startswith("lm_head")}
        save_file(own, folder / file, metadata={"format": "pt"})
    return weights


@torch.no_grad()
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_from_pretrained_quantised_checkpoint_equals_reference(
    tmp_path, reference, source_weights, quantized_weights, kind, file
):
    weights = checkpoint(tmp_path, reference, source_weights, quantized_weights, kind, file)
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path).float()
    golden = np.load(reference / "golden" / "quantized.npz")
    loaded = model.state_dict()
    for name in (name for name, value in weights.items() if value.dtype == torch.int8):
        assert torch.equal(loaded[name], weights[name])
        assert torch.equal(loaded[f"{name}_scale"], weights[f"{name}_scale"])
    assert model.lm_head.weight.data_ptr() == model.transformer.word_embeddings.weight.data_ptr()
    set_exact(model)
    input_ids = torch.tensor(golden[f"{kind}.input_ids"])
    # the stored outputs were computed before the scales were rounded to half precision
    assert relative_error(model(input_ids).logits[0, -1], golden[f"{kind}.logits_last"]) < 1e-3
    set_exact(model, False)
    logits, expected = model(input_ids).logits[0, -1], torch.tensor(golden[f"{kind}.logits_last"])
    largest = expected.topk(100).indices
    assert relative_error(logits[largest], expected[largest]) < 0.05
    assert relative_error(logits, expected) < (0.15 if kind == "int4" else 0.05)  # most are the output layer's copy's


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_quantize_model_equals_reference_before_scales_are_rounded(tiny_model, reference, kind):
    golden = np.load(reference / "golden" / "quantized.npz")
    model = copy.deepcopy(tiny_model)
    floats = dict(model.named_parameters())
    model.quantize(int(kind[3]), quantize_embeddings=kind == "int4_qe")
    assert model.config.quantization_bit == int(kind[3])
    limit = 2 ** (int(kind[3]) - 1) - 1
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear | QuantizedEmbedding):
            source = floats.get(f"{name}.weight", floats["transformer.word_embeddings.weight"])
            layer.weight_scale = source.detach().abs().amax(dim=1) / limit
    set_exact(model)
    input_ids, output_ids = torch.tensor(golden[f"{kind}.input_ids"]), golden[f"{kind}.output_ids"]
    assert relative_error(model(input_ids).logits[0, -1], golden[f"{kind}.logits_last"]) < 1e-5
    generated = model.generate(input_ids, do_sample=False, max_length=output_ids.shape[1])
    assert generated.tolist() == output_ids.tolist()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_save_pretrained_quantised_model_loads_again(tmp_path, random_model, kind):
    random_model.quantize(int(kind[3]), quantize_embeddings=kind == "int4_qe")
    random_model.save_pretrained(tmp_path)
    again = ChatGLMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.quantization_bit == int(kind[3])
    assert again.config.quantization_embeddings == (kind == "int4_qe")
    for name, value in random_model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    input_ids = torch.tensor([[5, 6, 101, 104]])
    assert torch.equal(again(input_ids).logits, random_model(input_ids).logits)


@pytest.mark.parametrize("kind", ["int4", "int4_qe"])
def test_from_pretrained_refuses_missing_scales(tmp_path, random_model, kind):
    random_model.quantize(4, quantize_embeddings=kind == "int4_qe").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value.clone() for name, value in weights.items() if not name.endswith("weight_scale")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not go together: .*weight_scale \(missing\)"):
        ChatGLMForConditionalGeneration.from_pretrained(tmp_path)


def test_from_pretrained_bfloat16_keeps_the_scales(tmp_path, random_model):
    random_model.quantize(4).save_pretrained(tmp_path)
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    name = "transformer.layers.0.mlp.dense_h_to_4h.weight_scale"
    assert torch.equal(model.state_dict()[name], load_file(tmp_path / "model.safetensors")[name])
    assert model.transformer.final_layernorm.weight.dtype == torch.bfloat16


def test_loading_a_quantised_checkpoint_makes_no_float_matrix(tmp_path, random_model, monkeypatch):
    random_model.quantize(4).save_pretrained(tmp_path)
    places, original = [], module.quantize_block

    def quantize_block(block, *arguments):
        places.extend(weight.device.type for weight in block.parameters())
        original(block, *arguments)

    monkeypatch.setattr(module, "quantize_block", quantize_block)
    ChatGLMForConditionalGeneration.from_pretrained(tmp_path)
    assert len(places) == 3 * 12 and set(places) == {"meta"}


def test_quantize_releases_each_float_matrix(random_model):
    matrix = random_model.transformer.layers[0].mlp.dense_h_to_4h.weight
    alive = weakref.ref(matrix)
    del matrix
    random_model.quantize(4)
    assert alive() is None


def test_quantised_model_trains_its_prefix(random_model):
    """The loss falls, and the gradients are those of the model with the unpacked float weights."""
    config = copy.deepcopy(random_model.config)
    config.pre_seq_len = 3
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(config).eval()
    model.load_state_dict(random_model.state_dict(), strict=False)
    exact = copy.deepcopy(model)
    model.quantize(8)
    for layer, twin in zip(model.transformer.layers, exact.transformer.layers, strict=True):
        for part, name in module.BLOCK_LINEARS:
            quantized = getattr(getattr(layer, part), name)
            matrix = dequantize_weight(quantized.weight, quantized.weight_scale, 8)
            getattr(getattr(twin, part), name).weight.data = matrix
    input_ids, labels = torch.tensor([[5, 6, 101, 104, 9, 10]]), torch.tensor([[-100, -100, -100, -100, 9, 10]])
    gradients = []
    for each in (model, exact):
        each(input_ids, labels=labels).loss.backward()
        gradients.append(each.transformer.prefix_encoder.embedding.weight.grad)
    assert gradients[1].norm() > 0
    assert relative_error(gradients[0], gradients[1]) < 0.05
    set_exact(model)
    model.zero_grad()
    model(input_ids, labels=labels).loss.backward()
    assert relative_error(model.transformer.prefix_encoder.embedding.weight.grad, gradients[1]) < 1e-4


@torch.no_grad()
@pytest.mark.skipif(not cpu_kernels.available(torch.float32), reason="needs a C compiler")
@pytest.mark.parametrize("cached_bytes, tolerance", [(0, 0.01), (1 << 20, 1e-4)])  # activations of 8 and 16 bits
def test_decoding_by_blocks_gives_way_to_hooks_and_to_exact_arithmetic(
    random_model, monkeypatch, cached_bytes, tolerance
):
    """A token goes through a block in one call, unless somebody listens to one of its layers or wants exact numbers."""
    monkeypatch.setattr(cpu_kernels, "CACHED_BYTES", cached_bytes)
    model = random_model.quantize(8).float()
    calls, decode_block = [], cpu_kernels.decode_block
    monkeypatch.setattr(cpu_kernels, "decode_block", lambda *a: calls.append(1) or decode_block(*a))
    config = model.config
    prompt = torch.tensor([[5, 6, 7, config.gmask_token_id, config.bos_token_id]])

    def second_token():
        calls.clear()
        output = model(prompt, use_cache=True)
        return model(torch.tensor([[9]]), past_key_values=output.past_key_values).logits

    by_blocks = second_token()
    assert len(calls) == config.num_layers
    heard = []
    handle = model.transformer.layers[0].mlp.dense_h_to_4h.register_forward_hook(lambda *_: heard.append(1))
    by_layers = second_token()
    assert len(calls) == config.num_layers - 1 and len(heard) == 2
    handle.remove()
    set_exact(model, True)
    exact = second_token()
    assert not calls
    assert relative_error(by_blocks, by_layers) < tolerance
    assert relative_error(by_blocks, exact) < 0.02  # the output layer's weights are rounded to INT8


@torch.no_grad()
@pytest.mark.skipif(not cpu_kernels.available(torch.float32), reason="needs a C compiler")
@pytest.mark.parametrize("bits, dtype", [(None, torch.float16), (8, torch.int8), (16, torch.float16)])
def test_keys_and_values_take_less_memory_where_kernels_decode_a_large_model(random_model, monkeypatch, bits, dtype):
    """In float32 those of 2,048 tokens of ChatGLM-6B would add 1.9 GB to an INT4 model's 3.1 GB."""
    model, config = random_model.float(), random_model.config
    prompt = torch.tensor([[5, 6, 7, config.gmask_token_id, config.bos_token_id]])
    assert model(prompt, use_cache=True).past_key_values.keys[0].dtype == torch.float32
    model.quantize(8)  # this one is small, and worth the accuracy
    assert model(prompt, use_cache=True).past_key_values.keys[0].dtype == torch.float32
    monkeypatch.setattr(cpu_kernels, "CACHED_BYTES", 0)
    model.transformer.cache_bits = bits
    cache = model(prompt, use_cache=True).past_key_values
    assert {buffer.dtype for buffer in (*cache.keys, *cache.values)} == {dtype}
    assert cache.keys[0].shape[-1] == 16 + 2 * (dtype == torch.int8)
    next_tokens = torch.tensor([[9, 10, 11]])
    together = model(next_tokens, past_key_values=cache).logits[:, -1]
    cache.crop(-3)
    for token in next_tokens.T:  # one at a time, in C
        logits = model(token[None], past_key_values=cache).logits[:, -1]
    assert relative_error(logits, together) < 0.01
    set_exact(model)
    assert model(prompt, use_cache=True).past_key_values.keys[0].dtype == torch.float32


def test_quantised_model_works_without_kernels(random_model, no_kernels):
    input_ids = torch.tensor([[5, 6, 101, 104]])
    random_model.quantize(8)
    expected = random_model(input_ids).logits
    set_exact(random_model)
    assert torch.equal(random_model(input_ids).logits, expected)
    assert random_model.generate(input_ids, do_sample=False, max_new_tokens=3).shape == (1, 7)


def test_config_json_names_the_quantisation(tmp_path, random_model):
    random_model.quantize(4, quantize_embeddings=True)
    random_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_bit"] == 4 and config["quantization_embeddings"] is True


def test_linear_reference_does_not_hold_the_whole_matrix(monkeypatch):
    torch.manual_seed(0)
    packed, weight_scale = quantize_weight(torch.randn(50, 16), 4)
    input = torch.randn(3, 16)
    expected = input @ dequantize_weight(packed, weight_scale, 4).T
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    assert torch.allclose(linear_reference(input, packed, weight_scale, 4, None), expected, atol=1e-5)
