"""The flags of the pages and of the terminal's chat."""

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from loading.arguments import PORT, ServingArguments, read_secret
from loading.command_line import Text, flag


@dataclass
class TerminalArguments:
    """What only the terminal chat has."""

    title: ClassVar[Text] = Text("terminal", "终端")

    lang: Literal["zh", "en"] = flag("zh", Text("language of the interface and of this help", "界面和本帮助的语言"))


@dataclass
class PageArguments(ServingArguments):
    """What only the web page has, beside where it listens."""

    title: ClassVar[Text] = Text("page", "网页")

    port: int = flag(7860, PORT)
    lang: Literal["auto", "zh", "en"] = flag(
        "auto",
        Text("language of the page and of this help; auto follows the browser", "页面和本帮助的语言；auto 随浏览器"),
    )
    auth: str = flag(
        "",
        Text(
            "USER:PASSWORD that visitors must give. Flags show in `ps`: better @FILE, a file that holds it, or "
            "CHATGLM_AUTH in the environment",
            "访客须提供的 用户名:密码。命令行参数在 `ps` 中可见：最好用 @文件，或环境变量 CHATGLM_AUTH",
        ),
        metavar="USER:PASSWORD",
    )
    share: bool = flag(
        False,
        Text("also serve at a public address, through Gradio's computers", "同时通过 Gradio 的服务器提供公网地址"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.auth = read_secret(self.auth or os.environ.get("CHATGLM_AUTH", ""), "auth")
        if self.auth and not all(self.auth.partition(":")):
            raise ValueError("auth must be USER:PASSWORD, got a text without one of the two")


@dataclass
class StreamlitArguments(ServingArguments):
    """What only the Streamlit page has, beside where it listens."""

    title: ClassVar[Text] = Text("page", "网页")

    port: int = flag(8501, PORT)
    lang: Literal["auto", "zh", "en"] = flag(
        "auto",
        Text("language of the page and of this help; auto follows the browser", "页面和本帮助的语言；auto 随浏览器"),
    )
