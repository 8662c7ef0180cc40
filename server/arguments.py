"""The server's own command-line arguments."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from loading.arguments import ServingArguments, find_adapter_folder, read_secret
from loading.command_line import Text, flag

ADAPTER = re.compile(r"([\w./:-]+)(?<!:latest)=(.+)", re.S)  # Ollama's clients write :latest behind any name


@dataclass
class ServerArguments(ServingArguments):
    """What only the server has, beside where it listens."""

    title: ClassVar[Text] = Text("server", "服务器")

    api_key: str = flag(
        "",
        Text(
            "key that clients must send as `Authorization: Bearer`. Flags show in `ps`: better @FILE, a file that "
            "holds it, or CHATGLM_API_KEY in the environment",
            "客户端须以 `Authorization: Bearer` 发送的密钥。命令行参数在 `ps` 中可见：最好用 @文件（内容为密钥），"
            "或环境变量 CHATGLM_API_KEY",
        ),
        metavar="KEY",
    )
    allow_origin: str = flag(
        "",
        Text(
            "origins, by commas, whose pages may call the server (CORS); * is all",
            "允许哪些来源的网页调用（CORS），逗号分隔；* 为全部",
        ),
        metavar="ORIGINS",
    )
    max_queue: int = flag(256, Text("requests that may wait besides; 0 and up", "此外可排队的请求数；0 以上"))
    queue_timeout: float = flag(
        120.0, Text("seconds that a request may wait for its turn; 0 and up", "请求排队的最长秒数；0 以上")
    )
    request_timeout: float = flag(
        600.0, Text("seconds that a request may take altogether; 0 and up", "请求总计的最长秒数；0 以上")
    )
    drain_seconds: float = flag(
        30.0,
        Text("seconds that answers may run on after SIGTERM; 0 and up", "收到 SIGTERM 后回答可继续的秒数；0 以上"),
    )
    keep_alive: float = flag(
        75.0,
        Text(
            "seconds that a connection may be idle between requests; 0 and up; behind a proxy, more than the proxy's",
            "连接在两次请求之间可空闲的秒数；0 以上；在代理之后时，应长于代理的",
        ),
    )
    client_timeout: float = flag(
        30.0,
        Text(
            "seconds that a client may take to send a request's header, or to read what was sent; above 0",
            "客户端发送请求头或读取已发送内容的最长秒数；大于 0",
        ),
    )
    max_body_bytes: int = flag(
        1 << 20, Text("largest request body, in bytes; 1024 and up", "请求体的最大字节数；1024 以上")
    )
    prompt_cache_mb: int = flag(
        256,
        Text("memory for prompts that are asked again, in MiB; 0 and up", "缓存重复提问所用的内存，MiB；0 以上"),
    )
    cache_mb: int = flag(
        0,
        Text(
            "memory for the running answers' keys and values, in MiB; 0: 70 %% of what is free at the start",
            "正在生成的回答的键值缓存所用内存，MiB；0：启动时空闲内存的 70 %%",
        ),
    )
    served_model_name: str = flag("chatglm-6b", Text("name in /v1/models", "/v1/models 中的名称"), metavar="NAME")
    adapter: tuple[str, ...] = flag(
        (),
        Text(
            "folder of a P-Tuning v2 prefix or LoRA adapter that answers requests whose model is NAME; may be given "
            "several times",
            "P-Tuning v2 前缀或 LoRA 适配器的文件夹，用来回答 model 为 NAME 的请求；可多次给出",
        ),
        metavar="NAME=FOLDER",
    )
    strict_model_names: bool = flag(False, Text("refuse requests for other model names", "拒绝其他模型名的请求"))
    strict_parameters: bool = flag(
        False,
        Text(
            "refuse requests with unknown parameters; otherwise they are named in a header and the log",
            "拒绝含未知参数的请求；否则在响应头和日志中列出被忽略的参数",
        ),
    )
    log_conversations: bool = flag(False, Text("write prompts and answers to the log", "把提问和回答写入日志"))
    glm_bot: bool = flag(
        False,
        Text("also serve glm-bot's routes: /chat, /clear, /chatglm", "同时提供 glm-bot 的路由"),
    )
    ollama: bool = flag(
        False,
        Text(
            "also serve Ollama's routes: /api/chat, /api/generate, /api/tags, /api/show, /api/version",
            "同时提供 Ollama 的路由：/api/chat、/api/generate、/api/tags、/api/show、/api/version",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queue_timeout", "request_timeout", "drain_seconds", "keep_alive", "prompt_cache_mb", "cache_mb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.client_timeout < math.inf:
            raise ValueError(f"client_timeout must be above 0, got {self.client_timeout}")
        for name, least in (("max_queue", 0), ("max_body_bytes", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        names = [self.served_model_name]
        for one in self.adapter:
            if (found := ADAPTER.fullmatch(one)) is None:
                raise ValueError(f"adapter must be NAME=FOLDER, with letters, digits and ./:_- in NAME, got {one!r}")
            if found[1] in names:
                raise ValueError(
                    f"adapter: the name {found[1]} is another adapter's, or the model's (served_model_name)"
                )
            names.append(found[1])
        self.api_key = read_secret(self.api_key or os.environ.get("CHATGLM_API_KEY", ""), "api_key")

    def adapters(self) -> dict[str, Path]:
        """Return the adapters' folders by name.

        Raises:
            LoadError: there is no such folder.
        """
        named = (ADAPTER.fullmatch(one).groups() for one in self.adapter)
        return {name: find_adapter_folder(path, f"--adapter {name}=") for name, path in named}
