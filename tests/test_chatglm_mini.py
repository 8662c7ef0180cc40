"""The mini checkpoint's recipe: a corpus that repeats, the real vocabulary's layout, a run that survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from chatglm.tokenization_chatglm import ChatGLMTokenizer
from resources.chatglm_mini import train
from resources.chatglm_mini.corpus import STAGES, all_skills, draw_dialogues, skill_weights, unseen_dialogues
from resources.chatglm_mini.dialogue import in_split, is_held_out, numbered_items, select_from
from resources.chatglm_mini.evaluate import evaluate
from resources.chatglm_mini.optimizer import orthogonalize
from resources.chatglm_mini.train import STATE, VOCABULARY, Recipe, encode, micro_batches, share
from resources.chatglm_mini.vocabulary import split_message

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "chatglm"
WEIGHTS = CHECKPOINT / "model.safetensors"
MEGABYTE = 1_000_000

embedded = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no embedded checkpoint at {WEIGHTS}")


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(str(CHECKPOINT / VOCABULARY), num_image_tokens=0)


def test_draw_dialogues_repeats_for_a_step() -> None:
    first, again = (draw_dialogues(seed=3, step=5, count=200) for _ in range(2))
    assert [dialogue.turns for dialogue in first] == [dialogue.turns for dialogue in again]


def test_draw_dialogues_differs_between_steps_and_seeds() -> None:
    draws = [draw_dialogues(seed, step, 50) for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(dialogue.turns for dialogue in draw) for draw in draws}) == 3


def test_almost_half_of_the_first_stage_is_plain_copying() -> None:
    weights = {stage: skill_weights(stage) for stage in STAGES}
    total = sum(weight for _, weight in weights["first"].values())
    assert weights["first"]["copying"][1] / total == pytest.approx(0.45)
    assert all("copying" not in weights[stage] for stage in STAGES[1:])
    assert set(weights["main"]) == {*all_skills(), "drill"}


def test_draw_dialogues_refuses_an_unknown_stage() -> None:
    with pytest.raises(ValueError, match="first, main, lists, last, got 'middle'"):
        draw_dialogues(0, 0, 1, stage="middle")


def test_recipe_goes_through_its_stages_in_order() -> None:
    recipe = Recipe(steps=10, first_steps=3, lists_from=6, last_steps=2)
    stages = [recipe.stage(step) for step in range(recipe.all_steps)]
    assert stages == ["first"] * 3 + ["main"] * 3 + ["lists"] * 4 + ["last"] * 2


@embedded
def test_rates_rise_fall_and_fall_on_to_zero() -> None:
    recipe = Recipe(steps=100, last_steps=50, warm_up=10, decay=0.5, last_rate=0.2)
    scales = [recipe.rate_scale(step) for step in (0, 9, 50, 75, 99, 100, 125, 149)]
    assert scales == pytest.approx([0.1, 1, 1, 0.6, 0.216, 0.2, 0.1, 0.004])
    # A run that only goes on from a checkpoint warms up, too.
    recipe = Recipe(steps=0, last_steps=50, warm_up=10, last_rate=1)
    assert [recipe.rate_scale(step) for step in (0, 4, 25)] == pytest.approx([0.1, 0.5, 0.5])


def test_dialogues_fit_the_model(tokenizer: ChatGLMTokenizer) -> None:
    lengths = [sum(map(len, encode(tokenizer, dialogue))) for dialogue in draw_dialogues(0, 1, 1500)]
    assert max(lengths) <= train.LONGEST_DIALOGUE
    assert sum(length > 250 for length in lengths) > 50, "long chats are trained, too"


@pytest.mark.long
def test_corpus_never_asks_an_evaluated_question() -> None:
    trained = {dialogue.turns for step in range(200) for dialogue in draw_dialogues(0, step, 96)}
    evaluated = {dialogue.turns for skill in all_skills().values() for dialogue in unseen_dialogues(skill, 100, 1)}
    assert not trained & evaluated


@pytest.mark.parametrize("name", sorted(all_skills()))
def test_unseen_dialogues_are_enough_and_differ(name: str) -> None:
    dialogues = list(unseen_dialogues(all_skills()[name], 100, seed=1))
    assert len({dialogue.turns for dialogue in dialogues}) == 100


def test_is_held_out_is_the_same_on_every_machine() -> None:
    # crc32 of "123456789" is the check value of the algorithm, 0xCBF43926 = 3421780262
    assert not is_held_out("123456789")
    assert is_held_out("123456789", one_in=2)
    assert sum(is_held_out(value) for value in range(10_000)) == pytest.approx(1000, rel=0.1)


def test_in_split_refuses_an_unknown_split() -> None:
    with pytest.raises(ValueError, match='"train" or "test", got \'dev\''):
        in_split("value", "dev")


def test_select_from_holds_out_one_in_ten_and_at_least_one() -> None:
    for count in (2, 9, 30):
        values = [f"value {index}" for index in range(count)]
        held_out = select_from(values, "test")
        assert len(held_out) == max(1, count // 10)
        assert sorted(select_from(values, "train") + held_out) == sorted(values)


def test_numbered_items_stop_at_a_gap() -> None:
    assert numbered_items("好的：\n1. 散步\n2、喝水\n4. 睡觉") == ["散步", "喝水"]


def test_orthogonalize_moves_singular_values_towards_one() -> None:
    torch.manual_seed(0)
    for shape in ((16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 1e-3, torch.float32))
        assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_share_deals_every_example_out(processes: int) -> None:
    examples = list(range(97))
    parts = [share(examples, rank, processes) for rank in range(processes)]
    assert sorted(example for part in parts for example in part) == examples


def test_share_gives_two_processes_the_same_work() -> None:
    lengths = list(range(96))
    assert sum(share(lengths, 0, 2)) == sum(share(lengths, 1, 2)) == sum(lengths) / 2


def test_micro_batches_keep_every_example_and_label_answers_only() -> None:
    examples = [([10 + i] * (i % 7 + 2), [50 + i] * (i % 5 + 1)) for i in range(30)]
    seen = []
    for input_ids, labels in micro_batches(examples, pad_token_id=3, micro_tokens=64):
        assert input_ids.numel() <= 64
        for ids, label in zip(input_ids.tolist(), labels.tolist(), strict=True):
            answer = [value for value in label if value != -100]
            ids = [value for value in ids if value != 3]
            assert ids[-len(answer) :] == answer == label[-len(answer) :]
            seen.append((ids[: -len(answer)], answer))
    assert sorted(seen) == sorted(examples)


@embedded
def test_vocabulary_has_special_tokens_where_the_real_one_has_them() -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(CHECKPOINT / VOCABULARY))
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    control = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
    assert pieces[:5] == ["<unk>", "<s>", "</s>", "<pad>", "<n>"]
    assert pieces[-256:] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert pieces[-256 - 88 : -256] == [*control, "<|tab|>", *blanks]
    assert [index for index in range(len(pieces)) if model.is_control(index)] == [
        *(1, 2, 3),
        *range(len(pieces) - 256 - 88, len(pieces) - 256 - 80),
    ]


@embedded
def test_vocabulary_order_is_the_reference_order(reference: Path) -> None:
    """Field 1 of the file holds the pieces in order; the ends of both files must agree, but for their learnt pieces."""

    def pieces(path: Path) -> list[bytes]:
        return [
            next(value for number, _, value in split_message(payload) if number == 1)
            for field, _, payload in split_message(path.read_bytes())
            if field == 1
        ]

    real, ours = pieces(reference / "tiny-chatglm" / VOCABULARY), pieces(CHECKPOINT / VOCABULARY)
    assert ours[:5] == real[:5]
    assert ours[-344:] == real[-344:]


@embedded
@pytest.mark.parametrize(
    "text", ["你好，世界！", "It's 25 + 17 = 42.", "罕见的字：齉龘", "emoji 👋🎉", "line\nbreak\tand    blanks"]
)
def test_vocabulary_spells_any_text(tokenizer: ChatGLMTokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert tokenizer.unk_token_id not in ids
    # NFKC, as in the real vocabulary, makes full-width punctuation half-width.
    assert tokenizer.decode(ids) == text.replace("，", ",").replace("！", "!").replace("：", ":")


@embedded
def test_encode_ends_prompt_and_answer(tokenizer: ChatGLMTokenizer) -> None:
    prompt, answer = encode(tokenizer, draw_dialogues(0, 0, 1)[0])
    assert prompt[-2:] == [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert answer[-1] == tokenizer.eos_token_id


@embedded
def test_checkpoint_fits_its_budget() -> None:
    assert WEIGHTS.stat().st_size <= 20 * MEGABYTE


@embedded
@pytest.mark.long
def test_checkpoint_answers_unseen_cases() -> None:
    """A sample of the published evaluation: 4 unseen cases per skill, other cases than the table's."""
    results = evaluate(CHECKPOINT, cases=4, seed=20)
    right, cases = sum(result.right for result in results), sum(result.cases for result in results)
    assert len(results) == len(all_skills())
    assert right / cases >= 0.75, [(result.skill.name, result.right) for result in results]


def tiny_run(output: Path, *options: str) -> list[str]:
    """Return the command line of a run of 14 small steps with the vocabulary of the embedded checkpoint."""
    shape = ["--hidden-size", "32", "--num-layers", "2", "--num-attention-heads", "2", "--processes", "1"]
    command = [sys.executable, "-m", "resources.chatglm_mini.train", "--output", str(output), "--cases", "0"]
    return [*command, "--steps", "10", "--last-steps", "4", "--dialogues", "4", *shape, *options]


def run_here(monkeypatch: pytest.MonkeyPatch, output: Path, *options: str) -> None:
    """Do the tiny run in this process, which has imported everything."""
    monkeypatch.setattr(sys, "argv", tiny_run(output, *options)[2:])
    train.main()


def losses(output: Path) -> list[float]:
    return torch.load(output / ".training" / STATE, weights_only=True)["losses"]


@embedded
@pytest.mark.long
def test_run_killed_and_resumed_gives_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name / ".training").mkdir(parents=True)
        (tmp_path / name / ".training" / VOCABULARY).write_bytes((CHECKPOINT / VOCABULARY).read_bytes())
    run_here(monkeypatch, tmp_path / "whole")

    process = subprocess.Popen(tiny_run(tmp_path / "killed", "--save-every", "0"), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / ".training" / STATE).exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before its first checkpoint"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(losses(tmp_path / "killed")) < 14
    run_here(monkeypatch, tmp_path / "killed")

    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]


@embedded
def test_blocks_are_compiled_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiled blocks compute is PyTorch's business, and takes it a minute."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append((type(self).__name__, how)))
    for options in ((), ("--compile",)):
        work = tmp_path / str(len(options)) / ".training"
        work.mkdir(parents=True)
        (work / VOCABULARY).write_bytes((CHECKPOINT / VOCABULARY).read_bytes())
        run_here(monkeypatch, work.parent, *options, "--steps", "0", "--last-steps", "1")
        assert compiled == [("GLMBlock", {"dynamic": True})] * 2 * len(options)


@embedded
def test_run_starts_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a step the weights are the checkpoint's; with another shape nothing is trained."""
    command = [*tiny_run(tmp_path / "same")[2:], "--start", str(CHECKPOINT), "--steps", "0", "--last-steps", "1"]
    shape = ["--hidden-size", "256", "--num-layers", "4", "--num-attention-heads", "4"]
    monkeypatch.setattr(sys, "argv", [*command, *shape, "--matrix-rate", "0", "--other-rate", "0"])
    train.main()
    found, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "same", CHECKPOINT))
    assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)
    assert (tmp_path / "same" / VOCABULARY).read_bytes() == (CHECKPOINT / VOCABULARY).read_bytes()
    monkeypatch.setattr(sys, "argv", [*tiny_run(tmp_path / "other")[2:], "--start", str(CHECKPOINT)])
    with pytest.raises(SystemExit, match="another shape"):
        train.main()
    (tmp_path / "other" / ".training" / VOCABULARY).write_bytes(b"of another run")
    with pytest.raises(SystemExit, match="is not the vocabulary of"):
        train.main()


def test_run_refuses_the_state_of_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / ".training"
    work.mkdir()
    (work / VOCABULARY).write_bytes(b"unused")
    torch.save({"recipe": {**Recipe().__dict__, "steps": 7}}, work / STATE)
    # The vocabulary is read first, so take a real one where there is one.
    if (CHECKPOINT / VOCABULARY).exists():
        (work / VOCABULARY).write_bytes((CHECKPOINT / VOCABULARY).read_bytes())
    else:
        pytest.skip("no embedded vocabulary")
    with pytest.raises(SystemExit, match="another recipe.*steps"):
        run_here(monkeypatch, tmp_path)
