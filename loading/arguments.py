"""The flags that scripts share, how a script ends, and where the embedded checkpoint lies; PyTorch is not imported.

model_arguments, sampling = parse_arguments(__doc__, ModelArguments, SamplingArguments)
model_arguments.announce()  # refuses a wrong path, and says that loading begins
from loading.load import load_model_and_tokenizer  # imports PyTorch, which takes seconds
"""

import errno
import importlib.util
import io
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

from .checkpoint import LoadError, check_checkpoint, find_folder
from .command_line import Text, flag, parse_arguments

__all__ = ["ModelArguments", "SamplingArguments", "ServingArguments", "parse_arguments", "run_main"]

MODEL_FOLDER = Path(__file__).resolve().parent.parent / "chatglm"
EMBEDDED_CHECKPOINT = str(MODEL_FOLDER)
CALIBRATION_TOKENS = 32768  # of sample dialogues together, by default
DTYPE_NAMES = ("float16", "bfloat16", "float32")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)  # a full disk, a reader that has gone
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?)B", re.I)  # of memory


def load_alone(name: str) -> ModuleType:
    """Return a module of the model's that imports nothing, without its package, which imports PyTorch."""
    specification = importlib.util.spec_from_file_location(f"loading.{name}", MODEL_FOLDER / f"{name}.py")
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)  # dataclasses look there
    specification.loader.exec_module(module)
    return module


model_sampling, model_bits = load_alone("sampling"), load_alone("bits")


def check_device(name: str) -> None:
    """Refuse what is not a device's name.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name}")


@dataclass
class ModelArguments:
    """Which checkpoint is loaded, and how."""

    title: ClassVar[Text] = Text("model", "模型")

    model_name_or_path: str = flag(
        EMBEDDED_CHECKPOINT,
        Text("checkpoint folder, or a model's name on the Hugging Face hub", "模型文件夹，或 Hugging Face 上的模型名"),
        "--model",
        shown=Text("the embedded mini checkpoint", "自带的迷你模型"),
        metavar="PATH",
    )
    device: str = flag(
        "auto",
        Text(
            "auto, cpu, cuda, cuda:N or mps; auto is cuda if there is one, else mps, else cpu",
            "auto、cpu、cuda、cuda:N 或 mps；auto 依次选择 cuda、mps、cpu 中可用的",
        ),
        metavar="NAME",
    )
    dtype: str = flag(
        "auto",
        Text(
            "auto, float16, bfloat16 or float32; auto is half precision on cuda and mps, and on a CPU bfloat16 for a "
            "large model if the CPU computes in it, else float32",
            "auto、float16、bfloat16 或 float32；auto 在 cuda 和 mps 上为半精度，在 CPU 上，"
            "大模型且 CPU 支持时为 bfloat16，否则为 float32",
        ),
        metavar="NAME",
    )
    quantization_bit: int | None = flag(
        None,
        Text("quantise the layers to so many bits a weight: 4 or 8", "量化后每个权重的位数：4 或 8"),
        "--quantize",
        shown=Text("as the checkpoint is", "与模型文件相同"),
        metavar="BITS",
    )
    ptuning_checkpoint: str | None = flag(
        None,
        Text(
            "folder with a P-Tuning v2 prefix (ours or the original's) or a LoRA adapter for this model",
            "P-Tuning v2 前缀（本项目或原版）或 LoRA 适配器的文件夹",
        ),
        shown=Text("none but the checkpoint's own", "无，除非模型文件夹自带"),
        metavar="PATH",
    )
    num_gpus: int | None = flag(
        None,
        Text(
            "spread the layers evenly over the first so many NVIDIA GPUs; 1 and up", "把各层平均分到前 N 块 GPU，1 以上"
        ),
        shown=Text("one device", "单个设备"),
    )
    device_map: str | None = flag(
        None,
        Text(
            "auto fills what memory is free on GPUs, then main memory, then leaves the rest on disk; or a JSON file "
            'that says where parts lie, such as {"transformer.layers.0": 1, "lm_head": "cpu"}',
            "auto 先用 GPU 显存，再用内存，其余留在磁盘；或给出各部分位置的 JSON 文件，如 "
            '{"transformer.layers.0": 1, "lm_head": "cpu"}',
        ),
        shown=Text("one device", "单个设备"),
        metavar="FILE",
    )
    max_memory: str | None = flag(
        None,
        Text(
            "memory for weights, such as cuda:0=3GiB,cpu=8GiB; used in this order, and the rest stays on disk, where "
            "it is read for each token",
            "权重可用的内存，如 cuda:0=3GiB,cpu=8GiB；依次使用，其余留在磁盘，每个 token 读取一次",
        ),
        shown=Text("what is free", "空闲内存"),
        metavar="SIZES",
    )
    cache_bits: int | None = flag(
        None,
        Text(
            "bits of each cached key and value of a quantised model on a CPU: 8 or 16",
            "量化模型在 CPU 上缓存的每个键和值的位数：8 或 16",
        ),
        shown=Text("16 for a large model", "大模型为 16"),
        metavar="BITS",
    )
    no_drafts: bool = flag(
        False,
        Text(
            "compute answers one token at a time, where drafts would save passes and change no token",
            "逐个 token 计算回答，不用草稿（草稿只减少计算次数，不改变任何 token）",
        ),
    )

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.dtype not in ("auto", *DTYPE_NAMES):
            raise ValueError(f"dtype must be auto, float16, bfloat16 or float32, got {self.dtype}")
        if self.quantization_bit is not None:
            model_bits.check_bits(self.quantization_bit)
        if self.cache_bits not in (None, 8, 16):
            raise ValueError(f"cache_bits must be 8 or 16, got {self.cache_bits}")
        if self.num_gpus is not None and self.num_gpus < 1:
            raise ValueError(f"num_gpus must be at least 1, got {self.num_gpus}")
        if self.num_gpus and (self.device_map or self.max_memory):
            raise ValueError("num_gpus spreads evenly: give either it, or device_map or max_memory")
        if self.max_memory:
            parse_max_memory(self.max_memory)
            if self.device_map not in (None, "auto"):
                raise ValueError("max_memory plans a device map: give either it, or a file as device_map")
        if self.is_spread and self.device != "auto":
            raise ValueError(f"device names one place: leave {self.device} out with num_gpus, device_map or max_memory")

    @property
    def is_spread(self) -> bool:
        """Whether the model's parts may lie on several devices."""
        return any(value is not None for value in (self.num_gpus, self.device_map, self.max_memory))

    def announce(self) -> None:
        """Check the files of a checkpoint on this computer, and tell a person at a terminal that loading begins.

        Raises:
            LoadError: a folder or a file that is missing, damaged or another model's.
        """
        if (folder := find_folder(self.model_name_or_path)) is not None:
            check_checkpoint(folder)
        find_adapter_folder(self.ptuning_checkpoint)
        if sys.stderr.isatty():
            name = self.model_name_or_path if folder is None else folder.resolve().name
            print(f"{name}: loading …", file=sys.stderr, flush=True)


def find_adapter_folder(path: str | None, given: str = "--ptuning-checkpoint ") -> Path | None:
    """Return the folder of the prefix or LoRA adapter that was asked for, if any.

    Args:
        path: as it was given.
        given: what stood before it on the command line.

    Raises:
        LoadError: there is no such folder.
    """
    if path is None:
        return None
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise LoadError(
            f"{given}{folder}: no such folder; give the one that holds ptuning_prefix.safetensors, "
            "pytorch_model.bin or adapter_config.json"
        )
    return folder


def parse_max_memory(text: str) -> dict[int | str, int]:
    """Return the bytes for each device that a budget names, such as `cuda:0=3GiB,cpu=8GiB`; GPUs come first.

    Raises:
        ValueError: another form, device or unit.
    """
    budget: dict[int | str, int] = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        index = name.removeprefix("cuda:")
        if name not in ("cpu", "mps") and not (name.startswith("cuda:") and index.isdecimal()):
            raise ValueError(f"max_memory is a list such as cuda:0=3GiB,cpu=8GiB of cuda:N, mps and cpu, got {part!r}")
        if not (found := SIZE.fullmatch(size)):
            raise ValueError(f"max_memory of {name} must be a size such as 3GiB, 500MiB or 3GB, got {size!r}")
        base = 1024 if found[2].lower().endswith("i") else 1000
        budget[int(index) if name.startswith("cuda:") else name] = int(
            float(found[1]) * base ** ("KMGT".index(found[2][0].upper()) + 1)
        )
    return dict(sorted(budget.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def sampling_flag(name: str, zh: str, shown: Text | None = None) -> Any:
    """Return the flag of a field of `chatglm.sampling.Sampling`, whose meaning and range are told in both languages."""
    parameter = model_sampling.PARAMETERS[name]
    allowed, meaning, metavar = parameter.metadata["allowed"], parameter.metadata["meaning"], None
    if isinstance(allowed, tuple):
        metavar = f"{{{','.join(allowed)}}}"
    elif name != "seed":
        most = "" if allowed.most is None else f" 到 {allowed.most}"
        meaning, zh = f"{meaning}; {allowed}", f"{zh}；{allowed.least}{most or ' 以上'}"
    return flag(parameter.default, Text(meaning, zh), shown=shown, metavar=metavar)


@dataclass
class SamplingArguments:
    """How answers are sampled; defaults and ranges are the model's."""

    title: ClassVar[Text] = Text("sampling", "采样")

    max_length: int = flag(
        model_sampling.MAX_LENGTH,
        Text(
            "limit of history, question and answer together, in tokens; 2 up to what the model allows",
            "历史、问题和回答合计的 token 数上限；2 到模型允许的长度",
        ),
    )
    max_new_tokens: int | None = flag(
        None,
        Text("limit of an answer alone, in tokens; 1 and up", "单个回答的 token 数上限；1 以上"),
        shown=Text("what max-length leaves", "max-length 的余量"),
    )
    temperature: float = sampling_flag("temperature", "0 总是取最可能的 token，越大越多样")
    top_k: int = sampling_flag("top_k", "只从这么多个最可能的 token 中采样，0 不限")
    top_p: float = sampling_flag("top_p", "只从累计概率达到此值的最可能的 token 中采样")
    repetition_penalty: float = sampling_flag("repetition_penalty", "大于 1 时，出现过的 token 更少重复，小于 1 则更多")
    min_p: float = sampling_flag("min_p", "概率低于最可能者此比例的 token 不采样")
    presence_penalty: float = sampling_flag("presence_penalty", "从回答中已有的 token 的 logit 中减去")
    frequency_penalty: float = sampling_flag("frequency_penalty", "token 每在回答中出现一次，就从其 logit 中减去一次")
    answer_language: str | None = sampling_flag(
        "language", "回答只用中文（zh）或英文（en）的 token", Text("both", "不限")
    )
    seed: int | None = sampling_flag("seed", "固定后回答可重现", Text("random", "随机"))

    def __post_init__(self) -> None:
        for name in model_sampling.LENGTHS:
            model_sampling.check_parameter(name, getattr(self, name))
        self.sampling()

    def sampling(self) -> dict[str, Any]:
        """Return the fields of `chatglm.sampling.Sampling`; the flag of its `language` has a longer name."""
        values = {"language" if name == "answer_language" else name: value for name, value in vars(self).items()}
        try:
            return model_sampling.Sampling(
                **{name: value for name, value in values.items() if name in model_sampling.PARAMETERS}
            ).sampling()
        except ValueError as error:
            raise ValueError(re.sub("^language", "answer_language", str(error))) from None

    def chat_keywords(self) -> dict[str, Any]:
        """Return the keyword arguments for `model.chat` and `model.stream_chat`."""
        return {"max_length": self.max_length, "max_new_tokens": self.max_new_tokens} | self.sampling()


def read_secret(value: str, name: str) -> str:
    """Return a secret, or the one in a file where the value is `@FILE`: command lines can be read by others.

    Raises:
        ValueError: there is no such file, or nothing in it.
    """
    if not value.startswith("@"):
        return value
    try:
        secret = Path(value[1:]).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read from {value[1:]}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not secret:
        raise ValueError(f"{name}: {value[1:]} is empty")
    return secret


PORT = Text("port to listen at; 0 to 65535, 0 picks a free one", "监听端口；0 到 65535，0 自动选择")


@dataclass
class ServingArguments:
    """Where a server or a page listens, and how many people it answers at the same time."""

    title: ClassVar[Text] = Text("serving", "服务")

    host: str = flag(
        "127.0.0.1",
        Text("address to listen at; 0.0.0.0 is all of this computer's", "监听地址；0.0.0.0 为本机所有地址"),
        metavar="ADDRESS",
    )
    port: int = flag(8000, PORT)
    max_batch_size: int = flag(32, Text("answers that are generated together; 1 and up", "同时生成的回答数；1 以上"))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {self.max_batch_size}")

    def check_address(self) -> None:
        """Refuse an address that this process cannot listen at, before a model is loaded for it.

        Raises:
            LoadError: names the address and the way out.
        """
        try:
            family, kind, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as listener:
                if os.name == "posix":  # what a server that has just ended leaves behind is no obstacle
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
        except OSError as error:
            raise LoadError(
                f"cannot listen at {self.host}:{self.port} ({error.strerror}): choose another --port or --host"
            ) from error


class Notices(io.TextIOWrapper):
    """Standard error of a program that goes on where its notices cannot be kept, as on a full disk."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, encoding="utf-8", errors="replace", line_buffering=True)
        self.stream = stream  # kept, as its end would close what both write to

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` on UTF-8 streams and exit with what it returns; a LoadError is one message and status 2."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    if type(sys.stderr) is io.TextIOWrapper:
        sys.stderr = Notices(sys.stderr)
    try:
        status = main()
        sys.stdout.flush()  # what is still buffered may not be writable
    except LoadError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130  # as shells report a program that Ctrl-C ended
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        discard_output()
        if not isinstance(error, BrokenPipeError):
            print(f"{Path(sys.argv[0]).name}: error: what it writes cannot be kept: {error.strerror}", file=sys.stderr)
        status = 1
    sys.exit(status)


def discard_output() -> None:
    """Send what is still buffered nowhere, so that exiting does not fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
