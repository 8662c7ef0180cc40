"""Measure a checkpoint on benchmarks by lm-eval: C-Eval, CMMLU, MMLU, GSM8K and its other tasks, and MMCU.

    python ptuning/evaluate_benchmarks.py --model THUDM/chatglm-6b --tasks ceval-valid,cmmlu --num_fewshot 5
    python ptuning/evaluate_benchmarks.py --quantize 4 --mmcu MMCU0316 --output result.json
    python ptuning/evaluate_benchmarks.py --tasks mine --task_folder my_tasks      # task files of your own

Needs `pip install lm-eval`. Its tasks download their data sets; MMCU's are asked for by mail, and read from a folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a script: its own folder, whose names are short, gives way to the project's
    sys.path[0] = str(ROOT)

from loading.arguments import ModelArguments, parse_arguments, run_main  # noqa: E402
from loading.checkpoint import LoadError  # noqa: E402
from loading.command_line import Text, flag  # noqa: E402

CHINESE = """用 lm-eval 评测模型：C-Eval、CMMLU、MMLU、GSM8K 及其余任务，以及 MMCU。

    python ptuning/evaluate_benchmarks.py --model THUDM/chatglm-6b --tasks ceval-valid,cmmlu --num-fewshot 5
    python ptuning/evaluate_benchmarks.py --quantize 4 --mmcu MMCU0316 --output result.json
    python ptuning/evaluate_benchmarks.py --tasks mine --task-folder my_tasks      # 自己的任务文件

需要 pip install lm-eval。其任务会下载数据集；MMCU 的数据须写信索取，从文件夹读取。
"""
LETTERS = "ABCD"
# Source of the format: MMCU's own test of ChatGLM (arXiv 2304.12986): answers are generated, the first letters count.
MMCU_INSTRUCTION = "请阅读以下选择题并给出正确选项，不要解释原因。请只给出答案的序号。\n"
MMCU_QUESTION = "\n正确答案的序号是："


@dataclass
class BenchmarkArguments:
    """What is measured."""

    title: ClassVar[Text] = Text("benchmarks", "评测")

    tasks: str | None = flag(
        None, Text("lm-eval's tasks, separated by commas", "lm-eval 的任务，以逗号分隔"), metavar="NAMES"
    )
    task_folder: str | None = flag(
        None, Text("folder with task files of your own", "自己的任务文件所在的文件夹"), metavar="PATH"
    )
    mmcu: str | None = flag(
        None, Text("folder of MMCU's data, with test/*.xlsx", "MMCU 数据的文件夹，内有 test/*.xlsx"), metavar="PATH"
    )
    num_fewshot: int | None = flag(
        None, Text("solved examples before each question", "每题之前的示例数"), shown=Text("the task's", "依任务而定")
    )
    limit: int | None = flag(None, Text("questions of each task", "每项任务的题数"), shown=Text("all", "全部"))
    batch_size: int = flag(8, Text("rows computed together, 1 and up", "一起计算的行数，1 以上"))
    chat_format: bool = flag(
        False, Text("ask in the chat's format, examples as rounds before", "用对话格式提问，示例作为之前的轮次")
    )
    output: str | None = flag(None, Text("JSON file for all results", "保存全部结果的 JSON 文件"), metavar="FILE")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not (self.tasks or self.mmcu):
            raise ValueError("tasks: nothing to measure; give --tasks ceval-valid or --mmcu FOLDER")


def mmcu_tasks(folder: Path) -> list[dict[str, Any]]:
    """Return a task for each table in a folder's `test`: question, options and answer in columns, in this order."""
    files = sorted(file for file in (folder / "test").glob("*") if file.suffix in (".xlsx", ".csv"))
    if not files:
        raise LoadError(f"{folder / 'test'} holds no .xlsx or .csv file: give the folder of MMCU's data")
    return [mmcu_task(file) for file in files]


def mmcu_task(file: Path) -> dict[str, Any]:
    """Return the task of a table; of an .xlsx file, of all its sheets."""
    import datasets
    import pandas

    try:
        tables = pandas.read_excel(file, sheet_name=None) if file.suffix == ".xlsx" else {"": pandas.read_csv(file)}
    except ImportError as error:
        raise LoadError(f"{file}: reading .xlsx needs the package openpyxl: pip install openpyxl") from error
    rows = []
    for table in tables.values():
        for question, *options, answer in table.astype(str).itertuples(index=False):
            shown = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
            letters = "".join(sorted(set(answer.translate(str.maketrans("ＡＢＣＤ", LETTERS))) & set(LETTERS)))
            rows.append({"text": f"{MMCU_INSTRUCTION}{question}{shown}{MMCU_QUESTION}", "answer": letters})
    return {
        "task": f"mmcu_{file.stem}",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "text",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 64},
        "filter_list": [{"name": "letters", "filter": MMCU_FILTER}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


MMCU_FILTER = [{"function": "regex", "regex_pattern": f"([{LETTERS}]{{1,4}})"}, {"function": "take_first"}]


def measure(model, tokenizer, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Run the tasks and return lm-eval's results."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from ptuning.benchmark_model import PrefixLanguageModel

    tasks: list[Any] = arguments.tasks.split(",") if arguments.tasks else []
    tasks += mmcu_tasks(Path(arguments.mmcu)) if arguments.mmcu else []
    measured = PrefixLanguageModel(model, tokenizer, arguments.batch_size)
    results = simple_evaluate(
        measured,
        tasks=tasks,
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
        apply_chat_template=arguments.chat_format,
        fewshot_as_multiturn=arguments.chat_format,
        task_manager=TaskManager(include_path=arguments.task_folder),
        bootstrap_iters=1000,
        log_samples=False,
    )
    if measured.shortened:
        print(f"{measured.shortened} contexts were cut at their beginning to {measured.limit} tokens", file=sys.stderr)
    return results


def main() -> int | None:
    """Load, measure, print the table."""
    model_arguments, arguments = parse_arguments(Text(__doc__, CHINESE), ModelArguments, BenchmarkArguments)
    model_arguments.announce()
    try:
        from lm_eval.utils import make_table
    except ImportError as error:
        raise LoadError("benchmarks need the package lm-eval: pip install lm-eval") from error
    from loading.load import load_model_and_tokenizer  # imports PyTorch, which takes seconds

    results = measure(*load_model_and_tokenizer(model_arguments), arguments)
    print(make_table(results))
    if arguments.output:
        kept = {name: results[name] for name in ("results", "versions", "n-shot", "higher_is_better")}
        Path(arguments.output).write_text(json.dumps(kept, indent=1, ensure_ascii=False, default=str), "utf-8")


if __name__ == "__main__":
    run_main(main)
