"""Fixtures that the whole test run shares."""

from __future__ import annotations

import copy
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
LONGEST = ("test_web_demo.py", "test_web_demo2.py", "test_cli_demo.py", "test_package.py")  # a minute and more each

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes side by side share the cores, and so do those they start
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)


def pytest_configure():
    """Watch for what libraries call deprecated."""
    import deprecations  # here, as for `small_reference`

    deprecations.watch()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process more than cores: browsers, servers and terminals are waited for."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests that take longest")


def pytest_collection_modifyitems(config, items):
    """Begin with the files that take longest; skip what is marked `cuda` or `long` where it is not wanted."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: asked for by --long"))


def pytest_terminal_summary(terminalreporter):
    """Say how many tests were skipped for each reason."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section(f"{len(reports)} skipped", "-")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5}  {reason}")


@pytest.fixture(autouse=True)
def no_deprecations(request):
    """Fail a test in which one of the project's files uses what a library calls deprecated."""
    import deprecations
    from transformers.utils import logging

    logging.set_verbosity_warning()  # loading by the scripts' loader silences it
    yield
    found, deprecations.found[:] = list(deprecations.found), []
    assert not found or request.node.get_closest_marker("deprecated"), "\n".join(found)


@pytest.fixture(autouse=True)
def same_threads():
    """Take back the threads that a test lets PyTorch have: more threads than cores wait for each other."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder with the real vocabulary and the original's outputs for it; its README says what is in it."""
    folder = Path(os.environ.get("CHATGLM_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"needs the real vocabulary: reference data not found at {folder} (set CHATGLM_REFERENCE)")
    return folder


@pytest.fixture(scope="session")
def small_reference() -> Path:
    """Return the folder of the small checkpoint that the original's outputs in `original.py` belong to."""
    import original  # here, as scripts import this module for its ROOT

    return original.FOLDER


@pytest.fixture(scope="session")
def small_model(small_reference):
    """Return that checkpoint (160 rows of vocabulary, 3 layers, random weights) in float32."""
    from chatglm import ChatGLMForConditionalGeneration

    return ChatGLMForConditionalGeneration.from_pretrained(small_reference).float().eval()


@pytest.fixture(scope="session")
def tiny_model(reference):
    """Return the reference checkpoint (the real vocabulary, 2 layers, random weights) in float32."""
    from transformers import AutoModel

    import chatglm  # noqa: F401  (registers the classes)

    return AutoModel.from_pretrained(reference / "tiny-chatglm").float().eval()


@pytest.fixture(scope="session")
def tiny_tokenizer(reference):
    """Return the reference checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    import chatglm  # noqa: F401

    return AutoTokenizer.from_pretrained(reference / "tiny-chatglm")


@pytest.fixture(scope="session")
def mini_model():
    """Return the embedded checkpoint in float32."""
    from chatglm import ChatGLMForConditionalGeneration

    return ChatGLMForConditionalGeneration.from_pretrained(ROOT / "chatglm").float().eval()


@pytest.fixture(scope="session")
def mini_tokenizer():
    """Return the embedded checkpoint's tokenizer."""
    from chatglm import ChatGLMTokenizer

    return ChatGLMTokenizer.from_pretrained(ROOT / "chatglm")


@pytest.fixture
def random_model():
    """Return a fresh model of 3 layers and 120 tokens with random weights, large enough to tell outputs apart."""
    from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration

    torch.manual_seed(0)
    config = ChatGLMConfig(
        vocab_size=120,
        hidden_size=32,
        num_layers=3,
        num_attention_heads=2,
        bos_token_id=104,
        eos_token_id=105,
        pad_token_id=3,
        max_sequence_length=2048,
    )
    model = ChatGLMForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Return the folder of a small checkpoint to fine-tune."""
    from replay import write_small_checkpoint

    folder = tmp_path_factory.mktemp("base")
    write_small_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folders(mini_model, tmp_path_factory) -> dict[str, Path]:
    """Return the folders of two LoRA adapters and two prefixes for the embedded checkpoint, random ones, by name."""
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    from loading import adapters

    makers = {
        "poet": lambda model: adapters.add_lora(model, rank=2, alpha=4),
        "broad": lambda model: adapters.add_lora(model, rank=5, alpha=5, targets=["query_key_value"]),
        "short": lambda model: adapters.add_prefix(model, 3),
        "long": lambda model: adapters.add_prefix(model, 7, projection=True),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in makers}
    for number, (name, make) in enumerate(makers.items()):
        torch.manual_seed(number)
        model = copy.deepcopy(mini_model)
        make(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std={"poet": 0.15, "broad": 0.15, "short": 5.0, "long": 0.7}[name])
        adapters.save_adapter(model, folders[name])
    return folders


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Return an engine with a small model whose answers differ."""
    from serving import write_lively_checkpoint

    from chatglm import ChatGLMTokenizer
    from engine import Engine

    folder = tmp_path_factory.mktemp("serving") / "small"
    made = Engine(write_lively_checkpoint(folder), ChatGLMTokenizer.from_pretrained(folder))
    yield made
    made.close()
