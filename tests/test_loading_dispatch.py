"""Tests of loading/dispatch.py and of its flags: maps, budgets, and models whose parts lie in several places.

Where there is no GPU, PyTorch's name `cpu:0` stands for one: accelerate treats it as a device other than main memory.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import original
import pytest
import torch
from serving import write_lively_checkpoint
from torch import nn

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.cuda_decode import DecodeWeights
from chatglm.quantization import set_exact
from engine import Engine, Request
from loading import dispatch, load
from loading.arguments import ModelArguments, parse_arguments, parse_max_memory
from loading.checkpoint import LoadError
from loading.dispatch import auto_configure_device_map, load_dispatched, plan_device_map, spell_out
from loading.load import load_model_and_tokenizer, load_model_on_gpus

GPU = "cpu:0"  # stands for one
PARTS = ("transformer.word_embeddings", "transformer.layers.0", "transformer.layers.1", "transformer.final_layernorm")
MAPS = {
    "disk": {"": "disk"},
    "memory": {"": "cpu"},
    "memory and disk": {"transformer": "cpu", "transformer.layers.0": "disk", "lm_head": "cpu"},
    "output layer on disk": {"transformer": "cpu", "lm_head": "disk"},
    "gpu, memory and disk": {"": GPU, "transformer.layers.0": "cpu", "transformer.layers.1": "disk"},
    "gpu keeps the norm only": {"transformer": "disk", "transformer.final_layernorm": GPU, "lm_head": "cpu"},
}


@pytest.fixture(autouse=True)
def cpu_stands_for_a_gpu(monkeypatch):
    """Let a parameter stay one when it is moved to `cpu:0`, as it does when it is on a GPU already."""
    move = torch.Tensor.to

    def to(self, *args, **kwargs):
        moved = move(self, *args, **kwargs)
        return moved if isinstance(moved, nn.Parameter) else nn.Parameter(moved, requires_grad=self.requires_grad)

    monkeypatch.setattr(nn.Parameter, "to", to)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Write a float checkpoint in two forms, INT4 ones with float and with quantised embedding, and a P-Tuning one."""
    folder = tmp_path_factory.mktemp("dispatch")
    names = ("float", "bin", "int4", "int4-qe", "prefix")
    written = {name: folder / name for name in names}
    write_lively_checkpoint(written["float"])
    for name in names[1:]:
        shutil.copytree(written["float"], written[name])
        (written[name] / "model.safetensors").unlink()
        more = {"pre_seq_len": 5} if name == "prefix" else {}
        model = ChatGLMForConditionalGeneration.from_pretrained(written["float"], dtype=torch.float16, **more)
        if name == "prefix":
            torch.manual_seed(1)
            nn.init.normal_(model.transformer.prefix_encoder.embedding.weight)
        if name.startswith("int4"):
            model.quantize(4, quantize_embeddings=name == "int4-qe")
        if name != "bin":
            model.save_pretrained(written[name])
            continue
        state = model.state_dict()  # two shards, and tied weights stored twice, as in the original's files
        shards = {f"pytorch_model-{number}.bin": list(state)[number::2] for number in (0, 1)}
        for file, weights in shards.items():
            torch.save({weight: state[weight] for weight in weights}, written[name] / file)
        weight_map = {weight: file for file, weights in shards.items() for weight in weights}
        (written[name] / "pytorch_model.bin.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map})
        )
    return written


def load_whole(folder: Path) -> ChatGLMForConditionalGeneration:
    return ChatGLMForConditionalGeneration.from_pretrained(folder).float().eval().requires_grad_(False)


# Device maps


def original_map(num_gpus: int) -> dict[str, int]:
    """Return the map of the original's rule: fill a GPU until it holds its 30 / num_gpus units, then take the next."""
    places, gpu, held = {}, 0, 2  # embedding, and final norm with output layer
    for layer in range(28):
        if held >= 30 / num_gpus:
            gpu, held = gpu + 1, 0
        places[f"transformer.layers.{layer}"] = gpu
        held += 1
    return places


@pytest.mark.parametrize("num_gpus", [1, 2, 3, 5, 6, 10, 15])  # those that divide 30
def test_auto_configure_device_map_is_the_originals(num_gpus):
    device_map = auto_configure_device_map(num_gpus)
    assert {part: place for part, place in device_map.items() if "layers" in part} == original_map(num_gpus)
    assert [device_map[part] for part in ("transformer.word_embeddings", "transformer.final_layernorm", "lm_head")] == [
        0
    ] * 3


@pytest.mark.parametrize(("num_gpus", "num_layers"), [(4, 28), (7, 28), (8, 28), (28, 28), (2, 2), (3, 5), (2, 40)])
def test_auto_configure_device_map_spreads_any_number_of_layers(num_gpus, num_layers):
    device_map = auto_configure_device_map(num_gpus, num_layers, prefix_encoder=True)
    places = [device_map[f"transformer.layers.{layer}"] for layer in range(num_layers)]
    assert places == sorted(places)  # one run of layers for each
    units = [places.count(gpu) + 2 * (gpu == 0) for gpu in range(num_gpus)]
    assert sum(units) == num_layers + 2 and min(units) >= 1
    if num_layers + 2 >= 2 * num_gpus:
        assert max(units) - min(units) <= 1
    assert device_map["transformer.prefix_encoder"] == 0


@pytest.mark.parametrize(("num_gpus", "num_layers"), [(0, 28), (29, 28), (3, 2)])
def test_auto_configure_device_map_refuses_more_gpus_than_layers(num_gpus, num_layers):
    with pytest.raises(ValueError, match=f"num_gpus must be from 1 to the model's {num_layers} layers, got {num_gpus}"):
        auto_configure_device_map(num_gpus, num_layers)


def test_parse_max_memory():
    assert parse_max_memory("cpu=8GiB, cuda:1=500MiB,cuda:0=3GB") == {0: 3 * 10**9, 1: 500 << 20, "cpu": 8 << 30}
    assert list(parse_max_memory("cpu=1GiB,cuda:0=1GiB")) == [0, "cpu"]
    for text in ("3GiB", "gpu=3GiB", "cuda=3GiB", "cuda:x=1GiB", ""):
        with pytest.raises(ValueError, match="max_memory is a list such as cuda:0=3GiB,cpu=8GiB"):
            parse_max_memory(text)
    with pytest.raises(ValueError, match="max_memory of cpu must be a size such as 3GiB.*got 'much'"):
        parse_max_memory("cpu=much")


def bytes_by_place(model: nn.Module, device_map: dict) -> dict:
    found: dict = {}
    for name, parameter in model.named_parameters():  # tied weights once
        place = dispatch.find_place(name, device_map)
        found[place] = found.get(place, 0) + parameter.numel() * parameter.element_size()
    return found


@pytest.mark.parametrize(
    ("bits", "budget", "places"),
    [
        (0, "cuda:0=3GiB,cpu=8GiB", {0, "cpu", "disk"}),
        (0, "cuda:0=3GiB,cpu=20GiB", {0, "cpu"}),
        (0, "cuda:0=8GiB,cuda:1=8GiB", {0, 1}),
        (0, "cpu=2GiB", {"cpu", "disk"}),
        (4, "cuda:0=5GiB", {0}),
        (4, "cuda:0=2GiB,cpu=4GiB", {0, "cpu"}),
        (8, "cpu=3GiB", {"cpu", "disk"}),
    ],
)
def test_plan_device_map_keeps_to_the_budget(bits, budget, places):
    """The 6B shape in half precision and quantised, with weights that take no memory."""
    config = ChatGLMConfig(quantization_bit=bits, pre_seq_len=16)
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config).half()
    model.tie_weights()
    max_memory = parse_max_memory(budget)
    device_map = plan_device_map(model, max_memory)
    found = bytes_by_place(model, device_map)
    assert set(found) == places
    for place, size in max_memory.items():
        assert found.get(place, 0) <= size
    main = min((place for place in places if isinstance(place, int)), default="cpu")
    assert device_map["transformer.prefix_encoder"] in ({"cpu"} if main == "cpu" else places - {"cpu", "disk"})
    if len(places) > 1:  # what is filled first is used well
        assert found[main] > 0.6 * max_memory[main]


def test_spell_out_takes_parts_together_and_apart():
    config = ChatGLMConfig(num_layers=2, pre_seq_len=3)
    given = {"transformer": "disk", "lm_head": 0, "transformer.layers.1": "cpu"}
    assert spell_out(given, config) == {
        **dict.fromkeys(PARTS, "disk"),
        "transformer.layers.1": "cpu",
        "transformer.prefix_encoder": 0,
        "lm_head": 0,
    }
    assert spell_out({"": "disk"}, config)["transformer.prefix_encoder"] == "cpu"
    for unknown in ("transformer.layers.2", "transformer.layers.1.mlp", "lm_heads"):
        with pytest.raises(ValueError, match=f"a device map names .* got {unknown}"):
            spell_out({"": "cpu", unknown: "cpu"}, config)


# Models in several places


@pytest.mark.parametrize("kind", ["float", "bin", "int4", "int4-qe", "prefix"])
def test_dispatched_models_compute_what_whole_ones_do(folders, kind):
    folder = folders[kind]
    whole, tokenizer = load_whole(folder), ChatGLMTokenizer.from_pretrained(folder)
    set_exact(whole)
    prompts = [tokenizer.encode_prompt(text) for text in ("今天天气很好", "你好")]
    width = max(map(len, prompts))
    batch = torch.tensor([[3] * (width - len(prompt)) + prompt for prompt in prompts])  # padded on the left
    expected, generated = whole(batch).logits, whole.generate(batch[:1], do_sample=False, max_new_tokens=6)
    for name, device_map in MAPS.items():
        model = load_dispatched(folder, ChatGLMConfig.from_pretrained(folder), torch.float32, device_map)
        assert model.device == torch.device(GPU if "gpu" in name else "cpu")
        set_exact(model)  # else the output layer of a quantised model has a copy of its own in INT8
        logits = model(batch).logits
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3, msg=name)
        with torch.inference_mode():
            model(batch)
        assert torch.equal(model.generate(batch[:1], do_sample=False, max_new_tokens=6), generated), name
        for part, parameter in model.named_parameters():  # nothing that is on disk or only kept stays in memory
            place = dispatch.find_place(part, model.hf_device_map)
            kept = place == "disk" or place == "cpu" and "gpu" in name
            assert (parameter.device.type == "meta") == kept, (name, part)


@pytest.mark.parametrize("name", MAPS)
def test_dispatched_models_equal_original(small_reference, name):
    config = ChatGLMConfig.from_pretrained(small_reference)
    model = load_dispatched(small_reference, config, torch.float32, MAPS[name])
    original.assert_computes_the_same(model)


def test_a_stream_and_the_engine_work_with_parts_on_disk(folders):
    for kind in ("prefix", "int4"):
        folder = folders[kind]
        whole, tokenizer = load_whole(folder), ChatGLMTokenizer.from_pretrained(folder)
        config = ChatGLMConfig.from_pretrained(folder)
        model = load_dispatched(folder, config, torch.float32, MAPS["gpu, memory and disk"])
        arguments = {"temperature": 0, "max_new_tokens": 8}
        questions = ["你好", "今天天气很好", "1 + 1"]
        expected = [whole.chat(tokenizer, question, **arguments)[0] for question in questions]
        assert list(model.stream_chat(tokenizer, questions[0], **arguments))[-1][0] == expected[0]
        engine = Engine(model, tokenizer)
        try:  # all at once: rows of different lengths
            requests = [
                Request(tokenizer.encode_prompt(question), max_tokens=8, temperature=0) for question in questions
            ]
            answers = [whole.process_response("".join(piece.text for piece in a)) for a in engine.submit(*requests)]
        finally:
            engine.close()
        assert answers == expected


def test_graphs_are_for_models_on_one_device(folders):
    """The CUDA graphs of cuda_decode.py read weights where they lie: not a model that accelerate moves about."""
    config = ChatGLMConfig.from_pretrained(folders["float"])
    model = load_dispatched(folders["float"], config, torch.float16, MAPS["gpu, memory and disk"])
    assert DecodeWeights.of(model, torch.device("cpu")) is None
    assert not any(
        "forward" in module.__dict__
        for module in load_dispatched(folders["float"], config, torch.float16, {"": "cpu"}).modules()
    )


def test_weights_on_disk_are_not_copied(folders):
    """Parts on disk are read from the checkpoint's own files: no second file, no memory while they do not compute."""
    folder = folders["bin"]
    before = sorted(folder.iterdir())
    model = load_dispatched(folder, ChatGLMConfig.from_pretrained(folder), torch.float16, {"": "disk"})
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sorted(folder.iterdir()) == before


def resident_bytes(file: Path) -> int:
    """Return how much of a mapped file is in this process' memory (Linux tells)."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is resident")
def test_weights_on_disk_leave_memory_after_use(tmp_path):
    """After a pass over all layers, little of the file is resident; without giving it back, all of it would be."""
    config = ChatGLMConfig(vocab_size=128, hidden_size=512, num_layers=2, num_attention_heads=4, bos_token_id=104)
    torch.manual_seed(0)
    file = tmp_path / "pytorch_model.bin"
    torch.save(ChatGLMForConditionalGeneration(config).half().state_dict(), file)
    model = load_dispatched(tmp_path, config, torch.float16, {"": "disk"})
    ids = torch.tensor([[7, 8, 101, 104]])
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
    assert resident_bytes(file) < 0.2 * file.stat().st_size
    in_memory = load_dispatched(tmp_path, config, torch.float16, {"": "cpu"})
    with torch.no_grad():
        in_memory(ids)
    assert resident_bytes(file) > 0.8 * file.stat().st_size


def test_load_dispatched_refuses_incomplete_weights_and_maps(folders, tmp_path):
    folder = Path(shutil.copytree(folders["float"], tmp_path / "copy"))
    config = ChatGLMConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match="lm_head"):
        load_dispatched(folder, config, torch.float32, {"transformer": "cpu"})
    config.num_layers = 3
    with pytest.raises(LoadError, match=r"lacks 12 of the model's weights, first transformer\.layers\.2\."):
        load_dispatched(folder, config, torch.float32, {"": "disk"})
    config.num_layers, config.inner_hidden_size = 2, 64
    with pytest.raises(LoadError, match=r"dense_h_to_4h.weight is \(128, 32\) in the weights and \(64, 32\) by config"):
        load_dispatched(folder, config, torch.float32, {"": "disk"})


# Flags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num-gpus 0", "--num-gpus must be at least 1, got 0"),
        ("--num-gpus 2 --max-memory cpu=1GiB", "--num-gpus spreads evenly"),
        ("--max-memory 3GiB", "--max-memory is a list such as cuda:0=3GiB,cpu=8GiB"),
        ("--max-memory cpu=1GiB --device-map map.json", "--max-memory plans a device map"),
        ("--max-memory cpu=1GiB --device cpu", "--device names one place: leave cpu out"),
    ],
)
def test_flags_that_contradict_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        parse_arguments("", ModelArguments, arguments=arguments.split())
    assert message in capsys.readouterr().err


def test_max_memory_leaves_the_rest_on_disk(folders, capsys):
    whole, tokenizer = load_whole(folders["bin"]), ChatGLMTokenizer.from_pretrained(folders["bin"])
    model, _ = load_model_and_tokenizer(ModelArguments(str(folders["bin"]), max_memory="cpu=60KB", dtype="float32"))
    assert re.search(r"bin: float32 on (cpu \(\d layers?\), )?disk \(\d layers?\), loaded in ", capsys.readouterr().err)
    assert "disk" in model.hf_device_map.values()
    arguments = {"temperature": 0, "max_new_tokens": 8}
    assert model.chat(tokenizer, "你好", **arguments)[0] == whole.chat(tokenizer, "你好", **arguments)[0]


def test_half_precision_stays_on_a_cpu_that_reads_from_disk(folders):
    """Converting all weights for each token would take longer than computing in the format of the file."""
    model, _ = load_model_and_tokenizer(ModelArguments(str(folders["float"]), max_memory="cpu=60KB"))
    assert model.dtype == torch.float16


def test_device_map_file(folders, tmp_path, capsys):
    file = tmp_path / "map.json"
    file.write_text(json.dumps(MAPS["memory and disk"]))
    model, _ = load_model_and_tokenizer(ModelArguments(str(folders["int4"]), device_map=str(file)))
    assert "int4: 4 bits, float32 on cpu (1 layer), disk (1 layer)" in capsys.readouterr().err
    for content, message in (
        ({"": "gpu"}, "must be on a GPU's number, cpu or disk, got 'gpu'"),
        ({"": None}, "got null"),
        ({"": 1}, "2 NVIDIA GPUs are asked for, and PyTorch .* finds 0"),
        ({"lm_head": "cpu"}, "transformer"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(LoadError, match=message):
            load_model_and_tokenizer(ModelArguments(str(folders["int4"]), device_map=str(file)))


def test_num_gpus_that_are_not_there(folders, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for arguments in ({"num_gpus": 2}, {"max_memory": "cuda:1=3GiB"}):
        with pytest.raises(LoadError, match="2 NVIDIA GPUs are asked for, and PyTorch .* finds 1"):
            load_model_and_tokenizer(ModelArguments(str(folders["float"]), **arguments))
    with pytest.raises(LoadError, match="2 NVIDIA GPUs are asked for"):
        load_model_on_gpus(folders["float"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(LoadError, match="num_gpus must be from 1 to the model's 2 layers, got 3"):
        load_model_and_tokenizer(ModelArguments(str(folders["float"]), num_gpus=3))


def test_num_gpus_spreads_evenly(folders, monkeypatch):
    """What reaches the loader, where there are no GPUs to load to."""
    asked = {}

    def load_to(folder, config, dtype, device_map, max_memory=None):
        asked.update(device_map=device_map, dtype=dtype)
        raise OSError("enough seen")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(load, "load_dispatched", load_to)
    with pytest.raises(LoadError, match="enough seen"):
        load_model_and_tokenizer(ModelArguments(str(folders["prefix"]), num_gpus=2))
    assert asked == {"device_map": auto_configure_device_map(2, 2, True), "dtype": torch.float16}


def test_load_model_on_gpus_takes_a_map_and_a_prefix(folders):
    device_map = {"": GPU, "transformer.layers.1": "cpu"}
    model = load_model_on_gpus(folders["float"], device_map=device_map, pre_seq_len=4, trust_remote_code=True)
    assert model.dtype == torch.float16 and model.hf_device_map["transformer.prefix_encoder"] == GPU
    tokenizer = ChatGLMTokenizer.from_pretrained(folders["float"])
    assert torch.isfinite(model(torch.tensor([tokenizer.encode_prompt("你好")])).logits).all()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"transformer.prefix_encoder.embedding.weight"}


def test_quantising_and_a_prefix_with_a_budget(folders, tmp_path):
    """`--quantize` reads into main memory, then spreads; the prefix stays in float32, as without a budget."""
    prefix = torch.randn(5, 2 * 2 * 32)
    torch.save({"transformer.prefix_encoder.embedding.weight": prefix}, tmp_path / "pytorch_model.bin")
    more = {"dtype": "float32", "ptuning_checkpoint": str(tmp_path)}
    arguments = {"temperature": 0, "max_new_tokens": 8}
    for bits, kind in ((4, "float"), (None, "int4"), (None, "float")):
        plain, tokenizer = load_model_and_tokenizer(
            ModelArguments(str(folders[kind]), device="cpu", quantization_bit=bits, **more)
        )
        budget = "cpu=1GiB" if bits else "cpu=60KB"
        spread, _ = load_model_and_tokenizer(
            ModelArguments(str(folders[kind]), max_memory=budget, quantization_bit=bits, **more)
        )
        assert torch.equal(spread.transformer.prefix_encoder.embedding.weight, prefix)
        assert spread.chat(tokenizer, "你好", **arguments)[0] == plain.chat(tokenizer, "你好", **arguments)[0]
    with pytest.raises(LoadError, match="quantised while loading are in no file"):
        load_model_and_tokenizer(ModelArguments(str(folders["float"]), max_memory="cpu=1KB", quantization_bit=4))


def test_a_program_may_dispatch_the_model_itself(folders):
    """langchain-ChatGLM and wenda load in half precision and call accelerate with a map of their own."""
    from accelerate import dispatch_model

    folder = folders["float"]
    whole, tokenizer = load_whole(folder), ChatGLMTokenizer.from_pretrained(folder)
    model = dispatch_model(
        load_whole(folder),
        device_map={
            "transformer.layers.1": "cpu",
            **{part: GPU for part in (*PARTS, "lm_head") if part != "transformer.layers.1"},
        },
    )
    arguments = {"temperature": 0, "max_new_tokens": 8}
    history = [["你好", "hello"]]
    expected = whole.chat(tokenizer, "1 + 1", history, **arguments)[0]
    assert model.chat(tokenizer, "1 + 1", history, **arguments)[0] == expected
