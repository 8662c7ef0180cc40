"""Tests of ptuning/data.py: what files may look like, what is said about wrong ones, and what is learnt from a row."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
from replay import write_small_checkpoint

from chatglm import ChatGLMTokenizer, messages_to_rounds

pytest.importorskip("datasets", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

from ptuning import data  # noqa: E402
from ptuning.arguments import DataArguments  # noqa: E402
from ptuning.data import Counts, DataError, Example  # noqa: E402

COLUMNS = {"prompt_column": "q", "response_column": "a"}
ROW = {"q": "你好", "a": "好"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_small_checkpoint(folder)
    return ChatGLMTokenizer.from_pretrained(folder)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"q": "你好", "a": "好"}\n\n{"q": "x", "a": "y"}\n'),
        ("a.jsonl", '{"q": "你好", "a": "好"}\r\n{"q": "x", "a": "y"}'),
        ("bom.json", '\ufeff[{"q": "你好",\n "a": "好"},\n{"q": "x", "a": "y"}]'),
        ("a.csv", "q,a\n你好,好\nx,y\n"),
    ],
)
def test_read_examples_reads_every_format(tmp_path, name, content):
    file = write(tmp_path, name, content)
    assert data.read_examples(file, DataArguments(**COLUMNS)) == [Example("你好", "好"), Example("x", "y")]


def test_read_examples_reads_history_and_messages(tmp_path):
    rows = [{**ROW, "h": [["一", "二"], ["三", None]]}, {**ROW, "h": []}]
    file = write(tmp_path, "h.jsonl", "\n".join(map(json.dumps, rows)))
    found = data.read_examples(file, DataArguments(**COLUMNS, history_column="h"))
    assert [example.history for example in found] == [(("一", "二"), ("三", "")), ()]
    csv_file = write(tmp_path, "h.csv", 'q,a,h\n你好,好,"[[""一"", ""二""]]"\n')
    assert data.read_examples(csv_file, DataArguments(**COLUMNS, history_column="h"))[0].history == (("一", "二"),)
    turns = [("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四")]
    messages = [{"role": role, "content": content} for role, content in turns]
    file = write(tmp_path, "m.json", json.dumps({"messages": messages}))
    assert data.read_examples(file, DataArguments()) == [Example("一", "二"), Example("三", "四", (("一", "二"),))]


def test_read_examples_counts_empty_rows(tmp_path):
    file = write(tmp_path, "a.json", '{"q": "", "a": "b"}\n{"q": "x", "a": null}\n{"q": "x", "a": "y"}')
    counts = Counts()
    assert data.read_examples(file, DataArguments(**COLUMNS), counts) == [Example("x", "y")]
    assert counts.empty == 2


@pytest.mark.parametrize(
    ("name", "content", "columns", "parts"),
    [
        ("none.json", None, COLUMNS, ["none.json", "no such file"]),
        ("empty.json", " \n", COLUMNS, ["empty.json", "empty"]),
        ("a.txt", "x", COLUMNS, ["a.txt", ".json"]),
        ("bad.jsonl", '{"q": "x", "a": "y"}\n{"q": "x", a}\n', COLUMNS, ["bad.jsonl", "line 2", "character 12"]),
        ("list.json", '{"q": "x", "a": "y"}\n3\n', COLUMNS, ["line 2", "int"]),
        ("gbk.json", '{"q": "x", "a": "y"}\n{"q": "你好"}'.encode("gbk"), COLUMNS, ["line 2", "UTF-8"]),
        ("a.json", '{"q": "x", "a": "y"}\n{"q": "x"}', COLUMNS, ["line 2", "'a'", "--response_column", "'q'"]),
        ("a.json", '{"q": 3, "a": "y"}', COLUMNS, ["line 1", "'q'", "int"]),
        ("a.json", '{"q": "x", "a": "y"}', {}, ["--prompt_column", "q, a"]),
        (
            "a.json",
            '{"q": "x", "a": "y", "h": "no"}',
            {**COLUMNS, "history_column": "h"},
            ["line 1", "'h'", "[question, answer]"],
        ),
        (
            "a.json",
            '{"q": "x", "a": "y", "h": [["x"]]}',
            {**COLUMNS, "history_column": "h"},
            ["line 1", "'h'", "history[0]"],
        ),
        ("m.json", '{"messages": [{"role": "user", "content": "x"}]}', {}, ["m.json", "no example"]),
        ("m.json", '{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}', {}, ["line 1", "0 or 1"]),
        ("a.json", '{"q": "x", "a": "y"}\n{"q": "\\ud83d", "a": "y"}', COLUMNS, ["line 2", "surrogate"]),
        ("a.json", '{"q": "x", "a": "y", "n": ' + "1" * 5000 + "}", COLUMNS, ["line 1", "limit"]),
        ("a.json", '{"q": "x", "a": "y", "q": "z"}', COLUMNS, ["line 1", "'q' occurs twice"]),
        ("a.json", "[" * 100_000, COLUMNS, ["a.json", "line 1"]),
        ("a.csv", "q,a\nx,y\n" + "x" * 200_000 + ",y\n", COLUMNS, ["line 3", "field"]),
        ("a.csv", "q,q\nx,y\n", COLUMNS, ["line 1", "same name"]),
        ("m.json", '{"messages": [{"role": "boss", "content": "x"}]}', {}, ["line 1", "'boss'", "role"]),
        ("a.csv", "q,a\nx,y\nx\n", COLUMNS, ["a.csv", "line 3", "2 columns"]),
    ],
)
def test_read_examples_names_file_line_and_column(tmp_path, name, content, columns, parts):
    file = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        data.read_examples(file, DataArguments(**columns))
    for part in (name, *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_encode_example_has_the_prompt_of_chat(tokenizer, turns):
    history = tuple((f"问{number}", f"答{number}") for number in range(turns))
    encoded = data.encode_example(tokenizer, Example("你好", "好", history), 500, 50, Counts())
    prompt, _ = tokenizer.encode_chat("你好", history, max_length=2048)
    answer = [*tokenizer.encode_text("好"), tokenizer.eos_token_id]
    assert encoded == {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def test_encode_example_gives_a_cut_answer_no_end(tokenizer):
    counts, answer = Counts(), "好" * 40
    ids = tokenizer.encode_text(answer)
    exact = data.encode_example(tokenizer, Example("你", answer), 50, len(ids) + 2, counts)
    assert exact["labels"][-1] == tokenizer.eos_token_id and counts.cut_answers == 0
    cut = data.encode_example(tokenizer, Example("你", answer), 50, len(ids) + 1, counts)
    assert cut["labels"][-len(ids) + 1 :] == ids[:-1] and tokenizer.eos_token_id not in cut["input_ids"]
    assert counts.cut_answers == 1 and "1 answers cut" in str(counts)


def test_encode_example_drops_the_oldest_rounds_first(tokenizer):
    history = tuple((f"问{number}", "答" * 10) for number in range(6))
    whole, _ = tokenizer.encode_chat("最新的问题", history)
    counts = Counts()
    encoded = data.encode_example(tokenizer, Example("最新的问题", "好", history), len(whole) - 20, 50, counts)
    prompt = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label == -100]
    text = tokenizer.decode(prompt)
    assert "最新的问题" in text and "问5" in text and "问0" not in text
    assert len(prompt) <= len(whole) - 20 + 1 and counts.shortened_histories == 1 and counts.cut_questions == 0


def test_encode_example_cuts_a_question_that_is_too_long(tokenizer):
    counts = Counts()
    encoded = data.encode_example(tokenizer, Example("好" * 100, "好", (("旧", "旧"),)), 20, 50, counts)
    prompt = encoded["labels"].count(-100)
    assert prompt == 19 + 2 and encoded["input_ids"][prompt - 2 : prompt] == tokenizer.encode_prompt("x")[-2:]
    assert counts.cut_questions == 1


def test_encode_examples_adds_up_in_several_processes(tokenizer):
    examples = [Example("你", "好" * length) for length in (1, 2, 30, 40)]
    results = []
    for processes in (None, 2):
        counts = Counts()
        arguments = DataArguments(max_target_length=20, preprocessing_num_workers=processes)
        encoded = data.encode_examples(tokenizer, examples, arguments, counts)
        results.append((encoded.to_dict(), counts))
    assert results[0] == results[1] and results[0][1].cut_answers == 2 and results[0][1].examples == 4


def test_collator_pads_on_the_left(tokenizer):
    rows = [
        data.encode_example(tokenizer, Example("你", "好"), 50, 50, Counts()),
        data.encode_example(tokenizer, Example("你好你好你", "好好"), 50, 50, Counts()),
    ]
    batch = data.Collator(tokenizer.pad_token_id)(rows)
    padding = len(rows[1]["input_ids"]) - len(rows[0]["input_ids"])
    assert batch["input_ids"][0].tolist() == [tokenizer.pad_token_id] * padding + rows[0]["input_ids"]
    assert batch["labels"][0].tolist() == [-100] * padding + rows[0]["labels"]
    assert batch["logits_to_keep"] == 1 + max(len(row["labels"]) - row["labels"].count(-100) for row in rows)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(row["input_ids"]) for row in rows]


def test_general_examples_come_from_a_file(tmp_path):
    file = write(tmp_path, "g.json", "\n".join(json.dumps({"q": str(number), "a": "y"}) for number in range(3)))
    arguments = DataArguments(**COLUMNS, general_data=str(file))
    found = data.general_examples(arguments, 7, seed=0)
    assert len(found) == 7 and {example.query for example in found} == {"0", "1", "2"}
    assert found == data.general_examples(arguments, 7, seed=0)


def chat_form(*turns: tuple[str, str], **more) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


@pytest.mark.parametrize(
    "row",
    [
        chat_form(("system", "简短"), ("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四")),
        {
            "system": "简短",
            "conversations": [
                {"from": "human", "value": "一"},
                {"from": "gpt", "value": "二"},
                {"from": "human", "value": "三"},
                {"from": "gpt", "value": "四"},
            ],
        },
        {"instruction": "三", "input": "", "output": "四", "history": [["一", "二"]], "system": "简短"},
    ],
    ids=["chat", "ShareGPT", "Alpaca"],
)
def test_read_examples_recognises_a_form_by_itself(tmp_path, row):
    for arguments in (DataArguments(), DataArguments(**COLUMNS)):
        found = data.read_examples(write(tmp_path, "a.json", json.dumps(row)), arguments)
        assert found[-1] == Example("三", "四", (("简短", "好的。"), ("一", "二")))
        assert len(found) == (1 if "output" in row else 2)


def test_alpaca_joins_instruction_and_input(tmp_path):
    file = write(tmp_path, "a.json", json.dumps({"instruction": "翻译", "input": "hello", "output": "你好"}))
    assert data.read_examples(file, DataArguments()) == [Example("翻译\nhello", "你好")]


@pytest.mark.parametrize("length", range(2, 6))
def test_messages_are_learnt_as_the_api_reads_them(tmp_path, length):
    """Every order of roles: an answer's example is what `messages_to_rounds` makes of the dialogue up to it."""
    for roles in itertools.product(("system", "user", "assistant"), repeat=length):
        turns = [(role, f"{role}{number}") for number, role in enumerate(roles)]
        expected = []
        for end in range(1, length + 1):
            if roles[end - 1] == "assistant" and roles[end : end + 1] != ("assistant",):
                _, rounds = messages_to_rounds(turns[:end])
                expected.append(Example(*rounds[-1], tuple(rounds[:-1])))
        assert data.examples_of_row("", chat_form(*turns), DataArguments()) == expected


def test_an_answer_of_weight_0_is_read_but_not_learnt(tmp_path):
    row = chat_form(("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四"))
    row["messages"][1]["weight"], row["messages"][3]["weight"] = 0, 1
    assert data.examples_of_row("", row, DataArguments()) == [Example("三", "四", (("一", "二"),))]


def test_read_cases_sorts_them_by_skill(tmp_path):
    rows = [{**ROW, "skill": "hello"}, chat_form(("user", "x"), ("assistant", "y"), skill="b"), ROW]
    file = write(tmp_path, "cases.jsonl", "\n".join(map(json.dumps, rows)))
    expected = {"hello": [Example("你好", "好")], "b": [Example("x", "y")], "all": [Example("你好", "好")]}
    assert data.read_cases(file, DataArguments(**COLUMNS)) == expected


def test_the_recipe_writes_its_dialogues_as_files(tmp_path, monkeypatch):
    """General dialogues, none of which is asked when measuring."""
    from resources.chatglm_mini import corpus

    monkeypatch.setattr(sys, "argv", ["corpus", str(tmp_path / "general.jsonl"), "--count", "300", "--seed", "4"])
    corpus.main()
    found = data.read_examples(tmp_path / "general.jsonl", DataArguments())
    measured = {
        (tuple(dialogue.history), dialogue.question)
        for skill in corpus.all_skills().values()
        for dialogue in corpus.unseen_dialogues(skill, 10, 1)
    }
    assert not measured & {(example.history, example.query) for example in found}
    assert len({example.query for example in found}) > 200
