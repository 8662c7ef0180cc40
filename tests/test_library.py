"""What the libraries around the model do with it: trainer, peft, accelerate, pipelines, export, loading and saving."""

from __future__ import annotations

import copy
import shutil

import accelerate
import deprecations
import peft
import pytest
import torch
from accelerate.hooks import ModelHook, SequentialHook, add_hook_to_module
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    pipeline,
)

from chatglm import ChatGLMForConditionalGeneration, ChatGLMModel
from ptuning.data import Collator
from ptuning.trainer import ChatGLMTrainer
from tests.conftest import ROOT

PROMPT = [5, 17, 30, 101, 104]  # [gMASK] <sop> at its end
ANSWER = [40, 41, 42, 105]


@pytest.fixture
def mini_copy(mini_model):
    """Return the embedded checkpoint, to be changed."""
    return copy.deepcopy(mini_model)


def batch(*rows: list[int]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[3] * (longest - len(row)) + row for row in rows])


# ---- The original's names ----


def test_get_masks_and_get_position_ids_are_the_originals(random_model):
    ids = torch.tensor([PROMPT + ANSWER, [5, 101, 104, 40, 41, 42, 43, 44, 105]])
    for part in (random_model, random_model.transformer):
        blocked = part.get_masks(ids, device="cpu")
        positions = part.get_position_ids(ids, mask_positions=[3, 1], device="cpu", use_gmasks=[True, True])
        assert (blocked.dtype, positions.dtype) == (torch.bool, torch.int64)
        for row, context in enumerate([4, 2]):
            for query in range(9):
                seen = set(range(context)) | set(range(query + 1))
                assert {key for key in range(9) if not blocked[row, 0, query, key]} == seen
            expected = [[*range(context), *[[3, 1][row]] * (9 - context)], [0] * context + [*range(1, 10 - context)]]
            assert positions[row].tolist() == expected
    assert torch.equal(
        random_model(ids, position_ids=positions, attention_mask=blocked).logits, random_model(ids).logits
    )


def test_get_masks_needs_sop(random_model):
    with pytest.raises(ValueError, match="row 0 has no <sop>"):
        random_model.get_masks(torch.tensor([[5, 101]]), "cpu")


def test_empty_init_has_no_effect(random_model, tmp_path):
    random_model.save_pretrained(tmp_path)
    ids = batch(PROMPT)
    for load in (ChatGLMForConditionalGeneration.from_pretrained, AutoModel.from_pretrained):
        for empty_init in (False, True):
            model = load(tmp_path, empty_init=empty_init)
            assert torch.equal(model(ids).logits, random_model(ids).logits)
    assert ChatGLMModel(random_model.config, empty_init=False).config is random_model.config


# ---- Prompts ----


def test_generate_refuses_padding_on_the_right(random_model):
    right = torch.tensor([PROMPT + ANSWER, [*PROMPT, 3, 3, 3, 3]])
    for mask in (None, (right != 3).long(), random_model.get_masks(right, "cpu")):
        with pytest.raises(ValueError, match="row 1 of the prompts is padded on the right.*pad on the left"):
            random_model.generate(right, attention_mask=mask, max_new_tokens=1)
    left = torch.full_like(right, 6)
    left[:, -2:] = torch.tensor([101, 104])
    mask = torch.ones_like(left)
    mask[1, -1] = 0
    with pytest.raises(ValueError, match="padded on the right"):
        random_model.generate(left, attention_mask=mask, max_new_tokens=1)


def test_forward_takes_answers_padded_on_the_right(random_model):
    right = torch.tensor([PROMPT + ANSWER, [*PROMPT, 40, 105, 3, 3]])
    logits = random_model(right, attention_mask=(right != 3).long()).logits[1, :7]
    torch.testing.assert_close(logits, random_model(right[1:, :7]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [6, 12])
def test_forward_refuses_labels_of_another_length(random_model, length):
    labels = torch.full((1, length), 40)
    with pytest.raises(ValueError, match=rf"labels are \[1, {length}\], the tokens \[1, 9\]"):
        random_model(batch(PROMPT + ANSWER), labels=labels)
    embeds = random_model.get_input_embeddings()(batch(PROMPT + ANSWER))
    with pytest.raises(ValueError, match=rf"labels are \[1, {length}\], the tokens \[1, 9\]"):
        random_model(inputs_embeds=embeds, labels=labels)


def test_generate_refuses_inputs_embeds(random_model):
    embeds = random_model.get_input_embeddings()(batch(PROMPT))
    with pytest.raises(ValueError, match="generate needs input_ids, not inputs_embeds"):
        random_model.generate(inputs_embeds=embeds, max_new_tokens=1)


# ---- Trainer ----


def trainer_loss(model, tmp_path, **arguments) -> float:
    rows = [PROMPT + ANSWER, [5, 101, 104, 7, 105]]
    ids = batch(*rows)
    labels = torch.where(ids > 38, ids, -100).masked_fill(ids > 100, -100)
    examples = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(tmp_path, report_to=[], per_device_eval_batch_size=2, use_cpu=True, **arguments)
    return Trainer(model, arguments, eval_dataset=examples).evaluate()["eval_loss"]


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: peft.get_peft_model(model, lora())])
def test_trainers_label_smoothing_shifts_labels(random_model, tmp_path, wrap):
    model = wrap(random_model)
    expected = trainer_loss(model, tmp_path)
    assert trainer_loss(model, tmp_path, label_smoothing_factor=1e-9) == pytest.approx(expected, rel=1e-5)


def test_own_trainers_label_smoothing_fits_the_logits_kept(random_model, tmp_path):
    rows = [(PROMPT, ANSWER), ([5, 101, 104], [7, 105])]
    features = [{"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer} for prompt, answer in rows]
    losses = []
    for factor in (0, 1e-9):
        arguments = Seq2SeqTrainingArguments(tmp_path, report_to=[], use_cpu=True, label_smoothing_factor=factor)
        collator = Collator(pad_token_id=3)
        trainer = ChatGLMTrainer(tokenizer=None, model=random_model, args=arguments, data_collator=collator)
        losses.append(trainer.evaluate(features)["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# ---- peft ----


def lora() -> peft.LoraConfig:
    return peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["query_key_value"])


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=lambda config: config.peft_type,
)
def test_prompt_learning_of_peft_is_refused_in_words(random_model, config):
    model = peft.get_peft_model(random_model, config)
    ids = batch(PROMPT)
    with pytest.raises(ValueError, match="pre_seq_len"):
        model(input_ids=ids, labels=ids)
    with pytest.raises(ValueError, match="pre_seq_len"):
        model.generate(input_ids=ids, max_new_tokens=2)


# ---- accelerate ----


def offload_to_cpu(model, tmp_path):
    accelerate.cpu_offload(model)


def offload_to_disk(model, tmp_path):
    accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))


def add_hook(model, tmp_path):
    add_hook_to_module(model, ModelHook())


def add_hooks(model, tmp_path):
    add_hook_to_module(model, SequentialHook(ModelHook(), ModelHook()))


def add_hook_and_offload(model, tmp_path):
    add_hook_to_module(model, ModelHook())
    accelerate.cpu_offload(model)


@pytest.mark.parametrize("hook", [offload_to_cpu, offload_to_disk, add_hook, add_hooks, add_hook_and_offload])
def test_chat_answers_under_hooks(mini_model, mini_copy, mini_tokenizer, tmp_path, hook):
    hook(mini_copy, tmp_path)
    assert mini_copy.device == torch.device("cpu")
    arguments = {"do_sample": False, "max_new_tokens": 8}
    expected = mini_model.chat(mini_tokenizer, "你好", **arguments)
    assert mini_copy.chat(mini_tokenizer, "你好", **arguments) == expected


# ---- Pipelines ----


def test_pipeline_answers_a_batch_as_single_prompts(mini_model, mini_tokenizer):
    prompts = ["你好", "今天天气很好啊，我们去公园吧"]
    generator = pipeline("text-generation", model=str(ROOT / "chatglm"), dtype=torch.float32)
    arguments = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    answers = [answer[0]["generated_text"] for answer in generator(prompts, batch_size=2, **arguments)]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([mini_tokenizer.encode_prompt(prompt)])
        expected = mini_model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert answer.strip() == mini_tokenizer.decode(expected, skip_special_tokens=True)


def test_pipeline_answers_messages_as_chat_does(mini_model, mini_tokenizer):
    rounds = [("你好", "你好，有什么可以帮你？")]
    question = {"role": "user", "content": "你是谁"}
    dialogues = [[{"role": "user", "content": "你好"}], [{"role": "user", "content": rounds[0][0]}]]
    dialogues[1] += [{"role": "assistant", "content": rounds[0][1]}, question]
    generator = pipeline("text-generation", model=mini_model, tokenizer=mini_tokenizer)
    arguments = {"max_new_tokens": 12, "do_sample": False}
    answers = [answer[0]["generated_text"][-1] for answer in generator(dialogues, batch_size=2, **arguments)]
    for answer, (query, history) in zip(answers, [("你好", []), ("你是谁", rounds)], strict=True):
        ids, _ = mini_tokenizer.encode_chat(query, history)
        expected = mini_model.generate(torch.tensor([ids]), **arguments)[0, len(ids) :]
        assert answer["content"].strip() == mini_tokenizer.decode(expected, skip_special_tokens=True)


# ---- Quantised models ----


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_of_a_quantised_model_is_what_it_computes_in(random_model, tmp_path, embeddings, dtype):
    model = random_model.quantize(4, quantize_embeddings=embeddings).to(dtype)
    for loaded in (model, None):
        if loaded is None:
            model.save_pretrained(tmp_path)
            loaded = AutoModel.from_pretrained(tmp_path)
        assert loaded.dtype == loaded.transformer.dtype == dtype
        assert loaded(batch(PROMPT)).logits.dtype == dtype
    assert random_model.float().dtype == torch.float32


@pytest.mark.parametrize("bits", [4, 8])
def test_quantization_bit_for_float_weights_is_refused(tmp_path, bits):
    config = AutoConfig.from_pretrained(ROOT / "chatglm", quantization_bit=bits)
    for load in (AutoModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=rf"do not go together.*leave quantization_bit out.*quantize\({bits}\)"):
            load(ROOT / "chatglm", config=config)


def test_weights_of_another_shape_are_refused(random_model, tmp_path):
    random_model.save_pretrained(tmp_path / "small")
    config = AutoConfig.from_pretrained(tmp_path / "small", inner_hidden_size=64)
    with pytest.raises(ValueError, match=r"do not go together.*\[32, 128\] stored, \[32, 64\] needed\) and 8 more"):
        AutoModel.from_pretrained(tmp_path / "small", config=config)
    model = AutoModel.from_pretrained(tmp_path / "small", config=config, ignore_mismatched_sizes=True)
    assert model.transformer.layers[0].mlp.dense_h_to_4h.weight.shape == (64, 32)


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_from_config_fills_quantised_weights_like_float_ones(random_model, bits, embeddings):
    config = copy.deepcopy(random_model.config)
    config.quantization_bit, config.quantization_embeddings = bits, embeddings
    model = AutoModel.from_config(config)
    assert model(batch(PROMPT)).logits.isfinite().all()
    layer = model.transformer.layers[0].mlp.dense_h_to_4h
    assert layer(torch.eye(32)).std().item() == pytest.approx(0.02, rel=0.1)


# ---- Tracing, export ----


@pytest.mark.parametrize("return_dict", [False, True])
def test_tracing_and_export_are_refused_in_words(random_model, return_dict):
    random_model.config.return_dict = return_dict
    ids = batch(PROMPT)
    cache = random_model(ids, use_cache=True, return_dict=True).cache

    class Step(torch.nn.Module):
        def forward(self, token_ids):
            return random_model(token_ids, cache=cache)[0]

    sequence = torch.export.Dim("sequence", min=3, max=100)
    attempts = [
        lambda: torch.jit.trace(random_model, (ids,), strict=False),
        lambda: torch.jit.trace(random_model.transformer, (ids,), strict=False),
        lambda: torch.export.export(random_model, (ids,), strict=False),
        lambda: torch.export.export(random_model, (ids,), dynamic_shapes=({1: sequence},), strict=False),
        lambda: torch.export.export(Step(), (ids[:, :1],), strict=False),
        lambda: torch.jit.trace(Step(), (ids[:, :1],), strict=False),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match="cannot be traced or exported"):
            attempt()
    deprecations.found.clear()  # torch.jit is, and is what is tried


# ---- Warnings ----


def test_loading_and_answering_warn_of_nothing(tmp_path, caplog, recwarn):
    from transformers.utils import logging

    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "ice_text.model"):
        shutil.copy(ROOT / "chatglm" / name, tmp_path)
    shutil.copy(ROOT / "chatglm" / "model.safetensors", tmp_path)
    logging.get_logger().addHandler(caplog.handler)
    try:
        generator = pipeline("text-generation", model=str(tmp_path), dtype=torch.float32)
        generator.model.chat(generator.tokenizer, "你好", do_sample=False, max_new_tokens=4)
        list(generator.model.stream_chat(generator.tokenizer, "你好", max_new_tokens=4))
        generator.model.generate(torch.tensor([generator.tokenizer.encode_prompt("你好")]), max_new_tokens=4)
        generator.model.save_pretrained(tmp_path / "saved")
        generator.tokenizer.save_pretrained(tmp_path / "saved")
        AutoModel.from_pretrained(tmp_path / "saved")
    finally:
        logging.get_logger().removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    assert [str(warning.message) for warning in recwarn] == []
