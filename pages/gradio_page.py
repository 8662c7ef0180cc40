"""The web page, by Gradio: its components, what happens on it, and how it is served."""

import asyncio
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import Answer, Engine
from loading.arguments import SamplingArguments

from .arguments import PageArguments
from .content import (
    ANSWER_ERRORS,
    HISTORY_ROUNDS,
    check_history,
    describe,
    make_request,
    read_history,
    sliders,
)
from .markdown import GRADIO, answer_markdown, question_markdown, typed_text
from .texts import EXAMPLES, MODEL_NAME, TEXTS

FRAME_SECONDS = 0.05  # between two updates of a page
QUEUE_SECONDS = 0.25  # between two looks at a waiting person's place
QUEUE_LOOK_SECONDS = 0.02  # between two looks at Gradio's own queue; its 1 ms keeps an idle page's processor busy
FORMULAS = [{"left": left, "right": right, "display": left != r"\("} for left, right in (("$$", "$$"), (r"\(", r"\)"))]
FONTS = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; object-src 'none'; "
    "base-uri 'self'"
)
FOLDER = Path(__file__).resolve().parent


class Asking:
    """A question of a browser tab on its way to its answer; `instead` is what the page shows once it is forgotten."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.stopped = False
        self.instead: dict | None = None

    def stop(self) -> None:
        """End the answer, now or as soon as it begins."""
        self.stopped = True
        if self.answer is not None:
            self.answer.cancel()


async def follow(engine: Engine, answer: Answer) -> AsyncIterator[tuple[str, int, str | None]]:
    """Yield what is to be seen of an answer: its text so far, its place in the queue, and why it ended."""
    text, place, drawn = "", 0, 0.0
    while not answer.exhausted:
        waiting = answer.started is None
        try:
            piece = await asyncio.wait_for(anext(answer), QUEUE_SECONDS if waiting else None)
        except asyncio.TimeoutError:  # noqa: UP041  (in Python 3.10 it is not the built-in one)
            if place != (place := engine.queue_position(answer)):
                yield text, place, None
            continue
        text += piece.text
        now = time.monotonic()
        if piece.finish_reason or now - drawn >= FRAME_SECONDS:
            drawn = now
            yield text, 0, piece.finish_reason


def messages(history: list[list[str]], question: str | None = None, reply: str = "") -> list[dict[str, str]]:
    """Return rounds, and one that is being answered, as the chat component shows them."""
    shown = []
    for asked, answered in history:
        shown.append({"role": "user", "content": question_markdown(asked, GRADIO)})
        shown.append({"role": "assistant", "content": answer_markdown(answered, GRADIO)})
    if question is not None:
        shown.append({"role": "user", "content": question_markdown(question, GRADIO)})
        if reply:
            shown.append({"role": "assistant", "content": answer_markdown(reply, GRADIO)})
    return shown


class Page:
    """The page and what happens on it. A chat is kept by its browser, not here.

    Args:
        engine: answers.
        sampling: where the sliders stand at first, and what has no slider.
        lang: language of the page: zh, en, or auto.
    """

    def __init__(self, engine: Engine, sampling: SamplingArguments, lang: str) -> None:
        self.engine, self.sampling, self.lang = engine, sampling, lang
        self.asking: dict[str, Asking] = {}  # by browser tab
        self.draw()

    def draw(self) -> None:
        """Make the components."""
        text = gr.I18n()
        ranges = sliders(self.sampling, self.engine.model.config.max_sequence_length)
        self.history = gr.BrowserState([], storage_key="chatglm-history")
        with gr.Sidebar(position="right", open=False, elem_id="settings"):
            gr.Markdown(text("settings"), elem_classes="heading")
            self.sliders = [
                gr.Slider(
                    *slider[:2], value=slider.value, step=slider.step, label=text(name), info=text(f"{name}_info")
                )
                for name, slider in ranges.items()
            ]
            gr.Markdown(text("chat"), elem_classes="heading")
            self.save = gr.Button(text("save"), elem_id="save")
            self.upload = gr.UploadButton(text("load"), file_types=[".json"], type="binary", elem_id="load")
        with gr.Row(elem_id="header"):
            gr.HTML(f"<h1>{MODEL_NAME}</h1>", elem_id="title")
            self.clear = gr.Button(text("clear"), size="sm", scale=0, min_width=120, elem_id="clear")
        self.chatbot = gr.Chatbot(
            show_label=False,
            container=False,
            scale=1,
            height="100%",
            editable="user",
            buttons=["copy", "copy_all"],
            latex_delimiters=FORMULAS,
            allow_tags=False,
            elem_id="chat",
        )
        self.status = gr.Markdown(elem_id="status")
        self.question = gr.Textbox(
            show_label=False,
            container=False,
            placeholder=text("placeholder"),
            lines=1,
            max_lines=10,
            autofocus=True,
            submit_btn=True,
            elem_id="question",
        )

    def connect(self, demo: gr.Blocks) -> None:
        """Say what happens when."""
        event = {"api_visibility": "private", "show_progress": "hidden"}
        answering = event | {
            "concurrency_limit": None,
            "outputs": [self.chatbot, self.history, self.question, self.status],
        }
        # "multiple": else Gradio drops a question sent while it still ends the answer before; `answer` takes one by one
        asked = [self.question, self.history, *self.sliders]
        self.question.submit(self.ask, asked, trigger_mode="multiple", **answering)
        self.chatbot.example_select(self.ask_example, [self.history, *self.sliders], **answering)
        self.chatbot.retry(self.retry, [self.history, *self.sliders], **answering)
        self.chatbot.edit(self.edit, [self.history, *self.sliders], **answering)
        self.chatbot.undo(self.undo, self.history, answering["outputs"], **event)
        self.question.stop(self.stop, **event)
        demo.load(self.welcome, self.history, [self.chatbot, self.history], **event)
        gr.on([self.clear.click, self.chatbot.clear], self.forget, None, answering["outputs"], **event)
        self.upload.upload(self.read, self.upload, answering["outputs"], **event)
        self.save.click(None, self.history, js="history => chatglm.save(history)", **event)

    # what happens

    def language(self, request: gr.Request) -> str:
        """Return the language that a visitor reads: if there is a choice, the first one that the browser names."""
        if self.lang != "auto":
            return self.lang
        return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"

    def welcome(self, request: gr.Request, history: Any) -> tuple[gr.Chatbot, list[list[str]]]:
        """Show the chat that the browser has kept, and the examples in the visitor's language."""
        try:
            history = check_history(history)
        except ValueError:  # written by something else
            history = []
        language = self.language(request)
        examples = [
            {"text": example.question, "display_text": example.title} for example in EXAMPLES[language].values()
        ]
        welcome = f"<h2>{TEXTS[language]['welcome']}</h2>"
        return gr.Chatbot(messages(history), examples=examples, placeholder=welcome), history

    async def answer(
        self,
        request: gr.Request,
        query: str,
        history: list[list[str]],
        chosen: Sequence[float],
        kept: list[list[str]] | None = None,
        **changes: Any,
    ) -> AsyncIterator[dict]:
        """Answer a question that follows some rounds; yield what changes on the page.

        Args:
            request: of the visitor's browser.
            query, history: the question and the rounds before it.
            chosen: what the sliders are set to.
            kept: the rounds that stay if there is no answer; None: `history`.
            changes: to further sampling arguments.
        """
        texts, tab = TEXTS[self.language(request)], request.session_hash
        if tab in self.asking or not query.strip():
            yield gr.skip()
            return
        asking = self.asking[tab] = Asking()
        reply, notes = "", []
        try:
            yield {
                self.chatbot: messages(history, query),
                self.question: gr.Textbox("", submit_btn=False, stop_btn=True),
                self.status: "",
            }
            max_length, top_p, temperature = chosen
            sampling = replace(
                self.sampling, max_length=int(max_length), top_p=top_p, temperature=temperature, **changes
            )
            asked, dropped = await run_in_threadpool(make_request, self.engine.tokenizer, query, history, sampling)
            if dropped:
                notes.append(texts["dropped"].format(dropped))
            asking.answer = self.engine.submit(asked)
            if asking.stopped:
                asking.answer.cancel()
            async with aclosing(follow(self.engine, asking.answer)) as views:
                async for reply, place, reason in views:
                    waiting = texts["queue"].format(place - 1) if place > 1 else texts["next"] if place else ""
                    yield {self.chatbot: messages(history, query, reply), self.status: waiting}
                    if reason == "length":
                        notes.append(texts["length"])
        except (*ANSWER_ERRORS, ValueError) as error:
            notes = [describe(error, texts, self.engine.model.config.max_sequence_length)]
        finally:  # also where the tab was closed
            asking.stop()
            current = self.asking.get(tab)
            if current is asking:
                del self.asking[tab]
        if current is not asking:
            # The last view may have reached the page after what took its place, so that is shown once more.
            yield asking.instead if current is None else gr.skip()
            return
        if reply:
            box = gr.Textbox(submit_btn=True, stop_btn=False)
            history = [*history, [query, reply]][-HISTORY_ROUNDS:]
        else:
            box = gr.Textbox(query, submit_btn=True, stop_btn=False)  # the question is not lost
            history = history if kept is None else kept
        yield {self.chatbot: messages(history), self.history: history, self.question: box} | self.note(notes)

    def note(self, notes: list[str]) -> dict:
        """Return the change that shows notes below the chat, as text."""
        return {self.status: question_markdown(" ".join(notes), GRADIO)}

    async def ask(self, request: gr.Request, query: str, history: list, *chosen: float) -> AsyncIterator[dict]:
        """Answer what was typed."""
        async for changes in self.answer(request, query, history, chosen):
            yield changes

    async def ask_example(
        self, request: gr.Request, event: gr.SelectData, history: list, *chosen: float
    ) -> AsyncIterator[dict]:
        """Answer an example's question."""
        async for changes in self.answer(request, event.value["text"], history, chosen):
            yield changes

    async def retry(self, request: gr.Request, history: list, *chosen: float) -> AsyncIterator[dict]:
        """Answer the last question once more, with random numbers of its own."""
        async for changes in self.answer(request, history[-1][0], history[:-1], chosen, history, seed=None):
            yield changes

    async def edit(self, request: gr.Request, event: gr.EditData, history: list, *chosen: float) -> AsyncIterator[dict]:
        """Answer an earlier question in its new wording; what came after it is forgotten."""
        before = history[: event.index // 2]
        async for changes in self.answer(request, typed_text(event.value), before, chosen, history):
            yield changes

    def undo(self, request: gr.Request, history: list) -> dict:
        """Forget the last round, and put its question back for another wording."""
        if request.session_hash in self.asking:
            return gr.skip()
        *history, (query, _) = history
        return {self.chatbot: messages(history), self.history: history, self.question: query, self.status: ""}

    def stop(self, request: gr.Request) -> None:
        """End the visitor's running answer; what was said stays."""
        if request.session_hash in self.asking:
            self.asking[request.session_hash].stop()

    def forget(self, request: gr.Request) -> dict:
        """End the visitor's running answer and forget all rounds."""
        return self.replace(request, [], {self.status: ""})

    def replace(self, request: gr.Request, history: list[list[str]], note: dict) -> dict:
        """End the visitor's running answer and show another chat, with a note below it."""
        changes = {
            self.chatbot: messages(history),
            self.history: history,
            self.question: gr.Textbox(submit_btn=True, stop_btn=False),
            **note,
        }
        if asking := self.asking.get(request.session_hash):
            asking.instead = changes
            self.asking.pop(request.session_hash, None)
            asking.stop()
        return changes

    def read(self, request: gr.Request, data: bytes) -> dict:
        """Show the chat that a file holds, in place of the one there is."""
        texts = TEXTS[self.language(request)]
        try:
            history = read_history(data)
        except ValueError as error:
            return self.note([texts["wrong_file"].format(error)])
        return self.replace(request, history, self.note([texts["loaded"].format(len(history))]))


class ContentSecurityPolicy:
    """Have the browser refuse whatever a page would fetch from other computers, such as a picture in an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def build_demo(engine: Engine, sampling: SamplingArguments | None = None, lang: str = "auto") -> gr.Blocks:
    """Return the page, to be launched by `launch`.

    Args:
        engine: answers; its `model` and `tokenizer` are those of the checkpoint.
        sampling: where the sliders stand at first, and what has no slider.
        lang: language of the page: zh, en, or auto for the browser's.
    """
    with gr.Blocks(title=MODEL_NAME, fill_height=True, analytics_enabled=False) as demo:
        Page(engine, sampling or SamplingArguments(), lang).connect(demo)
    return demo


def launch(demo: gr.Blocks, arguments: PageArguments, **options: Any) -> str:
    """Serve the page until Ctrl-C, or with `prevent_thread_lock=True` in the background; return its address."""
    languages = {"en": TEXTS["en"], "zh-CN": TEXTS["zh"], "zh-TW": TEXTS["zh"]}
    if arguments.lang != "auto":
        languages = dict.fromkeys(languages, TEXTS[arguments.lang])
    user, _, password = arguments.auth.partition(":")
    demo._queue.sleep_when_free = QUEUE_LOOK_SECONDS
    _, address, _ = demo.launch(
        server_name=arguments.host,
        server_port=arguments.port or free_port(arguments.host),
        share=arguments.share,
        auth=(user, password) if user else None,
        ssr_mode=False,
        mcp_server=False,
        quiet=True,
        show_error=True,
        footer_links=["settings"],
        i18n=gr.I18n(**languages),
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE_FONTS),
        css_paths=FOLDER / "gradio_page.css",
        head=f"<script>{(FOLDER / 'gradio_page.js').read_text(encoding='utf-8')}</script>",
        app_kwargs={"middleware": [Middleware(ContentSecurityPolicy)]},
        **options,
    )
    return address


def free_port(host: str) -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]


def serve(demo: gr.Blocks, engine: Engine, arguments: PageArguments) -> int:
    """Serve the page until Ctrl-C or SIGTERM, and return the exit status."""
    try:
        address = launch(demo, arguments, prevent_thread_lock=True)
    except OSError as error:  # Gradio's own message tells of variables of its own
        print(f"cannot listen at {arguments.host}:{arguments.port}: choose another --port ({error})", file=sys.stderr)
        return 1
    print(address, file=sys.stderr, flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(1):  # with a limit, as Windows lets signals through only between waits
        pass
    demo.close(verbose=False)
    engine.close()
    return 0
