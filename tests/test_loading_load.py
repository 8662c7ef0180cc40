"""Tests of the room loading: arguments, devices, dtypes, memory, loading, and how scripts end."""

from __future__ import annotations

import ctypes
import errno
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import original
import pytest
import torch
from replay import ROOT, change_json, write_small_checkpoint

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer, cpu_kernels
from loading import devices, load
from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.checkpoint import LoadError
from loading.load import load_model_and_tokenizer

CPU = torch.device("cpu")
REAL = ChatGLMConfig()  # 6B


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("utils") / "checkpoint"
    write_small_checkpoint(folder)
    return folder


# Arguments


def test_parse_arguments_defaults_are_the_originals():
    model, sampling = parse_arguments("", ModelArguments, SamplingArguments, arguments=[])
    assert (sampling.max_length, sampling.top_p, sampling.temperature) == (2048, 0.7, 0.95)
    assert Path(model.model_name_or_path).samefile(ROOT / "chatglm")
    for method in (ChatGLMForConditionalGeneration.chat, ChatGLMForConditionalGeneration.stream_chat):
        parameters = inspect.signature(method).parameters
        for name in ("max_length", "top_p", "temperature"):
            assert parameters[name].default == getattr(sampling, name)


@pytest.mark.parametrize(
    "arguments",
    [
        "--model M --quantize 4 --max-length 9 --top-p 0.5 --device cuda:1 --ptuning-checkpoint P",
        "--model_name_or_path M --quantization_bit 4 --max_length 9 --top_p 0.5 --device cuda:1 --ptuning_checkpoint P",
        "--model-name-or-path=M --quantization-bit=4 --max-length=9 --top_p=0.5 --device=cuda:1 --ptuning-checkpoint=P",
    ],
)
def test_parse_arguments_takes_every_spelling(arguments):
    model, sampling = parse_arguments("", ModelArguments, SamplingArguments, arguments=arguments.split())
    assert model == ModelArguments("M", "cuda:1", "auto", 4, "P")
    assert (sampling.max_length, sampling.top_p) == (9, 0.5)


def test_parse_arguments_leaves_values_as_they_are():
    (model,) = parse_arguments("", ModelArguments, arguments=["--model", "a-b_c", "--ptuning-checkpoint=x-y_z/--a-b"])
    assert (model.model_name_or_path, model.ptuning_checkpoint) == ("a-b_c", "x-y_z/--a-b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--quantize 3", "--quantize must be 4 or 8, got 3"),
        ("--device tpu", "--device must be auto, cpu, cuda, cuda:N or mps, got tpu"),
        ("--dtype half", "--dtype must be auto, float16, bfloat16 or float32, got half"),
        ("--max-length 1", "--max-length must be at least 2, got 1"),
        ("--max-new-tokens 0", "--max-new-tokens must be at least 1, got 0"),
        ("--top-p -0.1", "--top-p must be from 0 to 1, got -0.1"),
        ("--top-p 1.1", "--top-p must be from 0 to 1, got 1.1"),
        ("--temperature=-1", "--temperature must be from 0 to 100, got -1.0"),
        ("--temperature nan", "--temperature must be from 0 to 100, got nan"),
        ("--repetition-penalty 0", "--repetition-penalty must be from 0.01 to 10, got 0.0"),
        ("--answer-language fr", "--answer-language must be zh or en, got fr"),
        (
            "--seed=9223372036854775808",
            "--seed must be from -9223372036854775808 to 9223372036854775807, got 9223372036854775808",
        ),
        ("--max-length many", "invalid int value: 'many'"),
        ("--no-such-flag", "--no-such-flag"),
    ],
)
def test_parse_arguments_refuses_wrong_values(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        parse_arguments("", ModelArguments, SamplingArguments, arguments=arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_default_and_range_of_each_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments("What it does.\n\n    an example", ModelArguments, SamplingArguments, arguments=["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "\n    an example" in text
    for name in [*inspect.signature(ModelArguments).parameters, *inspect.signature(SamplingArguments).parameters]:
        assert f"--{name.replace('_', '-')}" in text
    assert text.count("(default:") == 20


def test_chat_keywords_are_understood_by_the_model(folder):
    model, tokenizer = ChatGLMForConditionalGeneration.from_pretrained(folder), ChatGLMTokenizer.from_pretrained(folder)
    sampling = SamplingArguments(max_length=50, max_new_tokens=3, repetition_penalty=1.2, answer_language="en", seed=1)
    response, _ = model.float().chat(tokenizer, "今天", **sampling.chat_keywords())
    assert not any("\u4e00" <= character <= "\u9fff" for character in response)


# How scripts end


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (LoadError("no weights.\nDownload them"), 2, "script.py: error: no weights.\nDownload them\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "script.py: error: what it writes cannot be kept: No space left on device\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
    ],
)
def test_run_main_ends_by_the_error(monkeypatch, capsys, raised, status, message):
    def main():
        raise raised

    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert (ended.value.code, capsys.readouterr().err) == (status, message)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_run_main_says_that_a_full_disk_keeps_nothing(monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as full, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", full)
        run_main(lambda: print("an answer"))
    assert ended.value.code == 1
    assert capsys.readouterr().err.endswith(": error: what it writes cannot be kept: No space left on device\n")


def test_run_main_returns_mains_status_and_shows_other_errors():
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: 7)
    assert ended.value.code == 7
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


def test_run_main_speaks_utf8_whatever_the_locale(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("你好\xff".encode() + b"\xff\n"), encoding="gbk"))
    with pytest.raises(SystemExit):
        run_main(lambda: print(sys.stdin.readline(), end="", flush=True))
    assert written.getvalue().decode() == "你好\xff\ufffd\n"


# Devices and dtypes


def test_choose_device_takes_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.choose_device("auto") == devices.choose_device("cpu") == CPU
    with pytest.raises(LoadError, match="--device cuda: PyTorch .* finds 0 NVIDIA GPUs.*--device cpu"):
        devices.choose_device("cuda")
    with pytest.raises(LoadError, match="--device mps: .*--device cpu"):
        devices.choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("auto") == torch.device("cuda")
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(LoadError, match="--device cuda:2: .* finds 2"):
        devices.choose_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "device", "config", "stored", "native", "expected"),
    [
        ("auto", "cuda", REAL, "float16", True, torch.float16),
        ("auto", "cuda", REAL, "bfloat16", True, torch.bfloat16),
        ("auto", "mps", REAL, "bfloat16", True, torch.float16),
        ("auto", "mps", REAL, "float16", False, torch.float32),
        ("auto", "cpu", REAL, "float16", True, torch.bfloat16),
        ("auto", "cpu", REAL, "float16", False, torch.float32),
        (
            "auto",
            "cpu",
            ChatGLMConfig(hidden_size=256, num_layers=6, num_attention_heads=4),
            "float16",
            True,
            torch.float32,
        ),
        ("float32", "cuda", REAL, "float16", True, torch.float32),
        ("float16", "cpu", REAL, "float16", True, torch.float16),
    ],
)
def test_choose_dtype(monkeypatch, name, device, config, stored, native, expected):
    monkeypatch.setattr(devices, "cpu_supports_bfloat16", lambda: native)
    monkeypatch.setattr(devices, "mps_computes_in_half", lambda: native)
    assert devices.choose_dtype(name, torch.device(device), config, stored) == expected


# Memory


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float32, None), (torch.float16, None), (torch.float16, 8), (torch.float16, 4)]
)
def test_weight_bytes_are_those_of_a_model(dtype, bits):
    config = ChatGLMConfig(vocab_size=1000, hidden_size=256, num_layers=6, num_attention_heads=4, bos_token_id=990)
    model = ChatGLMForConditionalGeneration(config).to(dtype)
    if bits:
        model.quantize(bits)
    layers = sum(tensor.numel() * tensor.itemsize for tensor in model.transformer.layers.state_dict().values())
    embedding = 1000 * 256 * (bits / 8 if bits else dtype.itemsize)
    assert devices.weight_bytes(config, dtype, bits) == pytest.approx(layers + embedding, rel=0.03)


def test_weight_bytes_on_a_gpu_have_the_embedding_in_half_precision():
    """28 layers of 201.3 M weights, and 130,528 x 4,096 in float16, of which a CPU holds a quantised copy."""
    layers, embedding = 28 * 201_326_592, 130_528 * 4096
    for bits in (4, 8):
        on_gpu = devices.weight_bytes(REAL, torch.float16, bits, "cuda")
        assert on_gpu == layers * bits // 8 + 2 * embedding
        assert on_gpu - devices.weight_bytes(REAL, torch.float16, bits, "cpu") == 2 * embedding - embedding * bits // 8


def test_int4_fits_a_card_of_six_gigabytes_with_a_whole_conversation(monkeypatch):
    """5.6 GB are free of 6 GB; a conversation of 2,048 tokens is 0.94 GB of keys and values."""
    gpu, free = torch.device("cuda", 0), 5.6e9
    monkeypatch.setattr(devices, "available_bytes", lambda place: int(free if place.type == "cuda" else 64e9))
    devices.check_memory(REAL, gpu, torch.float16, 4)
    assert devices.working_bytes(REAL, torch.float16, gpu) > 2 * 28 * 4096 * 2048 * 2
    assert devices.working_bytes(REAL, torch.float16, torch.device("cpu")) == 0
    free = 4.5e9  # the weights alone would fit
    with pytest.raises(LoadError, match=r"weights and one answer take 5\.1 GB .* 4\.5 GB are free on cuda:0"):
        devices.check_memory(REAL, gpu, torch.float16, 4)


def test_memory_that_pytorch_holds_and_does_not_use_is_free(monkeypatch):
    """As after `.cuda().quantize(4)`: the float weights are gone, and their blocks kept."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 16 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 13 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 << 30)
    assert devices.available_bytes(torch.device("cuda", 0)) == 10 << 30


def test_weight_bytes_of_the_real_model():
    assert devices.weight_bytes(REAL, torch.float16) == pytest.approx(12.34e9, rel=0.01)  # 6.17 G weights


@pytest.mark.parametrize(
    ("device", "dtype", "bits", "free", "expected"),
    [
        (
            "cpu",
            torch.float32,
            None,
            {"cpu": 8e9},
            ["24.7 GB (float32)", "8.0 GB are free on cpu", "python quantize.py SOURCE TARGET"],
        ),
        ("cpu", torch.float32, None, {"cpu": 16e9}, ["It fits with --dtype bfloat16 or --quantize 8 or --quantize 4"]),
        (
            "cuda",
            torch.float16,
            None,
            {"cuda": 6e9, "cpu": 16e9},
            ["free on cuda", "It fits with --quantize 4 or --device cpu"],
        ),
        ("cuda", torch.float16, None, {"cuda": 10e9, "cpu": 9e9}, ["free on cuda", "python quantize.py SOURCE TARGET"]),
        ("cuda", torch.float16, 4, {"cuda": 6e9, "cpu": 9e9}, ["12.3 GB", "9.0 GB are free on cpu"]),
    ],
)
def test_check_memory_names_what_helps(monkeypatch, device, dtype, bits, free, expected):
    monkeypatch.setattr(devices, "available_bytes", lambda place: free[place.type])
    monkeypatch.setattr(devices, "cpu_supports_bfloat16", lambda: True)
    with pytest.raises(LoadError, match="not enough memory") as raised:
        devices.check_memory(REAL, torch.device(device), dtype, bits)
    for part in expected:
        assert part in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2


def test_check_memory_lets_pass_what_fits(monkeypatch):
    monkeypatch.setattr(devices, "available_bytes", lambda place: {"cuda": 6e9, "cpu": 14e9}[place.type])
    devices.check_memory(REAL, CPU, torch.bfloat16, None)
    devices.check_memory(REAL, torch.device("cuda"), torch.float16, 4)
    devices.check_memory(ChatGLMConfig(quantization_bit=4), torch.device("cuda"), torch.float16, None)


def test_memory_is_checked_before_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(devices, "available_bytes", lambda place: 1000)
    monkeypatch.setattr(load, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(LoadError, match="not enough memory"):
        load_model_and_tokenizer(ModelArguments(str(folder), device="cpu"))


def test_available_bytes_are_plausible():
    available = devices.available_bytes(CPU)
    assert 10**7 < available < 10**14


# Loading


def test_load_says_what_was_chosen(folder, capsys):
    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(folder), device="cpu"))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("checkpoint: float32 on cpu, loaded in ")
    assert not model.training and model.dtype == torch.float32
    assert model.chat(tokenizer, "今天", temperature=0, max_new_tokens=3)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [8, 4])
def test_load_quantises(folder, capsys, dtype, bits):
    """The loader's quantised weights are those of quantising the half-precision checkpoint."""
    model, _ = load_model_and_tokenizer(ModelArguments(str(folder), "cpu", dtype, bits))
    assert f"checkpoint: {bits} bits, {dtype} on cpu" in capsys.readouterr().err
    expected = ChatGLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float16).quantize(bits)
    for name, tensor in expected.transformer.layers[0].mlp.dense_h_to_4h.state_dict().items():
        found = model.transformer.layers[0].mlp.dense_h_to_4h.state_dict()[name]
        assert torch.equal(found, tensor.to(found.dtype)), name
    assert model.transformer.word_embeddings(torch.tensor([[7]])).dtype == devices.DTYPES[dtype]


@pytest.mark.skipif(not cpu_kernels.available(torch.float32), reason="needs a C compiler")
@pytest.mark.parametrize(("bits", "dtype"), [(None, torch.float32), (8, torch.int8), (16, torch.float16)])
def test_cached_keys_and_values_have_the_bits_asked_for(folder, bits, dtype):
    model, tokenizer = load_model_and_tokenizer(
        ModelArguments(str(folder), "cpu", "float32", quantization_bit=4, cache_bits=bits)
    )
    with torch.no_grad():
        cache = model(torch.tensor([tokenizer.encode_prompt("你好")]), use_cache=True).past_key_values
    assert cache.keys[0].dtype == cache.values[0].dtype == dtype


def test_bits_of_cached_keys_and_values_that_float_layers_cannot_have_are_refused(folder):
    with pytest.raises(LoadError, match="--cache-bits 8 is for quantised layers"):
        load_model_and_tokenizer(ModelArguments(str(folder), "cpu", cache_bits=8))


def test_other_bits_of_cached_keys_and_values_are_refused():
    with pytest.raises(ValueError, match="cache_bits must be 8 or 16, got 4"):
        ModelArguments(cache_bits=4)


@pytest.mark.parametrize("no_drafts", [False, True])
def test_load_switches_drafts_off_where_asked_to(folder, no_drafts):
    model, _ = load_model_and_tokenizer(ModelArguments(str(folder), "cpu", no_drafts=no_drafts))
    assert model.drafts == (not no_drafts)


def test_load_takes_a_quantised_checkpoint(folder, tmp_path, capsys):
    ChatGLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float16).quantize(4).save_pretrained(tmp_path)
    shutil.copy(folder / "ice_text.model", tmp_path)
    shutil.copy(folder / "tokenizer_config.json", tmp_path)
    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(tmp_path), "cpu"))
    direct, _ = load_model_and_tokenizer(ModelArguments(str(folder), "cpu", quantization_bit=4))
    ids = torch.tensor([tokenizer.encode_prompt("今天天气很好")])
    assert torch.equal(model(ids).logits, direct(ids).logits)
    assert ": 4 bits, float32 on cpu" in capsys.readouterr().err


def test_load_model_equals_original(small_reference):
    config = ChatGLMConfig.from_pretrained(small_reference)
    original.assert_computes_the_same(load.load_model(small_reference, config, CPU, torch.float32))


@pytest.mark.parametrize("prefix_projection", [False, True])
def test_load_gives_the_originals_answers_with_a_prefix(reference, tmp_path, prefix_projection):
    """A P-Tuning v2 checkpoint in the original's form generates the original's ids."""
    prefix = torch.load(reference / "golden" / f"prefix_projection_{prefix_projection}.pt", weights_only=True)
    weights = {
        "transformer.prefix_encoder." + name.removeprefix("transformer.prefix_encoder."): prefix[name]
        for name in prefix
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"pre_seq_len": 5, "prefix_projection": prefix_projection}))
    arguments = ModelArguments(str(reference / "tiny-chatglm"), "cpu", "float32", ptuning_checkpoint=str(tmp_path))
    model, tokenizer = load_model_and_tokenizer(arguments)
    cases = json.loads((reference / "golden" / "generation.json").read_text(encoding="utf-8"))
    case = next(case for case in cases if case.get("prefix_projection") is prefix_projection)
    ids = torch.tensor([tokenizer.encode_prompt(case["query"])])
    generated = model.generate(ids, do_sample=False, max_length=len(case["output_ids"]))
    assert generated[0].tolist() == case["output_ids"]


def test_load_keeps_a_prefix_in_float32(folder, tmp_path):
    torch.manual_seed(0)
    config = ChatGLMConfig.from_pretrained(folder)
    embedding = torch.randn(5, 2 * config.num_layers * config.hidden_size).half()
    torch.save({"transformer.prefix_encoder.embedding.weight": embedding}, tmp_path / "pytorch_model.bin")
    arguments = ModelArguments(str(folder), "cpu", "bfloat16", 4, str(tmp_path))
    model, tokenizer = load_model_and_tokenizer(arguments)
    weight = model.transformer.prefix_encoder.embedding.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, embedding.float())
    assert model.chat(tokenizer, "你好", temperature=0, max_new_tokens=3)[0]


def test_load_gives_the_originals_answers(reference):
    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(reference / "tiny-chatglm"), "cpu"))
    cases = json.loads((reference / "golden" / "generation.json").read_text(encoding="utf-8"))
    for case in cases[:3]:
        keywords = {"do_sample": False, "max_length": len(case["output_ids"])}
        assert model.chat(tokenizer, case["query"], case["history"], **keywords)[0] == case["chat_response"]


def test_load_never_runs_code_of_a_checkpoint(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "legacy"))
    change_json(copy / "config.json", auto_map={"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"})
    for name in ("configuration", "modeling", "tokenization"):
        (copy / f"{name}_chatglm.py").write_text("raise SystemError('code of a checkpoint was executed')")
    model, tokenizer = load_model_and_tokenizer(ModelArguments(str(copy), "cpu"))
    assert type(model) is ChatGLMForConditionalGeneration and type(tokenizer) is ChatGLMTokenizer


ALLOCATING = """
import ctypes, sys, threading
from loading.devices import keep_memory_together
keep_memory_together()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
met = threading.Barrier(6)

def allocate():
    met.wait()
    libc.malloc(5000)
    met.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
written = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, written)
libc.fclose(written)
"""


LONG_PROMPT = """
import psutil, torch
from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from loading.devices import keep_memory_together

keep_memory_together()
config = ChatGLMConfig(
    num_layers=8, hidden_size=1024, inner_hidden_size=1024, num_attention_heads=8, vocab_size=128,
    bos_token_id=100, eos_token_id=101, mask_token_id=102, gmask_token_id=103, pad_token_id=3,
)
torch.manual_seed(0)
model = ChatGLMForConditionalGeneration(config).eval()

def read(length):
    with torch.no_grad():
        return model(torch.tensor([[5] * length + [103, 100]]), use_cache=True, logits_to_keep=1)

read(62)
before = psutil.Process().memory_info().rss
cache = read(2046).past_key_values
keys = sum(tensor.nbytes for layer in cache for tensor in layer)
print((psutil.Process().memory_info().rss - before) / keys)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_long_prompt_leaves_its_keys_only(tmp_path):
    """Of the memory that reading a prompt of 2,048 tokens takes, what stays is that of its keys and values."""
    result = subprocess.run([sys.executable, "-c", LONG_PROMPT], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 0.9 < float(result.stdout) < 1.4


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc")
@pytest.mark.parametrize("wanted, heaps", [(None, 2), ("4", 4)])
def test_threads_share_heaps(tmp_path, wanted, heaps):
    """By the C library's own count; what the user has set stays."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": wanted} if wanted else {}
    command = [sys.executable, "-c", ALLOCATING, str(tmp_path / "heaps.xml")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "heaps.xml").read_text().count("<heap nr=") == heaps
