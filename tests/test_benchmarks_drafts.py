"""The benchmark of drafts counts what the decoding loop does, and its forced answers are the known ones."""

import copy

from chatglm.drafts import ROW_COST
from tests.benchmarks import drafts


def test_replay_counts_every_token_once_and_saves_passes_where_it_can():
    text = list(range(50))
    repeated = drafts.replay([*text, 60], [*text, 61])
    assert sum(1 + right for _, right in repeated) == len(text)  # all but the first, which the prompt's pass gives
    assert len(repeated) < 20 and all(1 <= right + 1 <= count <= drafts.MOST for count, right in repeated)
    assert drafts.replay([60, 61], text) == [(1, 0)] * 49


def test_text_kinds_are_all_there_without_advertisegen(tmp_path, mini_tokenizer):
    kinds = drafts.text_kinds(tmp_path)
    assert len(kinds) == 4 and all(len(pairs) > 10 for pairs in kinds.values())
    prompt, answer = kinds["copy-heavy: code edits"][0].encode(mini_tokenizer)
    assert answer[-1] == mini_tokenizer.eos_token_id and prompt[-1] == mini_tokenizer.bos_token_id


def test_step_costs_and_forced_answers_run_on_a_small_model(mini_model, capsys):
    model, answer = copy.deepcopy(mini_model).quantize(4), [*range(20, 40), *range(20, 40), 4653]
    costs, seconds = drafts.step_costs(model, rounds=2, context=16)
    assert len(costs) == drafts.MOST and costs[0] == 1 and seconds > 0
    for drafted in (False, True):  # asserts that the tokens are the answer's
        assert drafts.generate_seconds(model, [50, 51, 4649, 4652], answer, drafted) > 0
    drafts.report_texts({"copied": [([1, 2, 3, 4], [1, 2, 3, 4, 5])]}, [1 + ROW_COST * more for more in range(8)])
    assert "| copied | 1 | 4 |" in capsys.readouterr().out
