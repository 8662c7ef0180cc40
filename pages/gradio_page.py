"""The web page, by Gradio: its components, what happens on it, and how it is served."""

import asyncio
import base64
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

from chatglm import SYSTEM_REPLY
from engine import Answer, Engine
from loading.arguments import SamplingArguments

from .arguments import PageArguments
from .content import (
    ANSWER_ERRORS,
    FIRST_SLIDERS,
    Slider,
    WrongChatError,
    check_history,
    describe,
    make_request,
    sliders,
)
from .guard import Guard, password_check
from .markdown import GRADIO, answer_markdown, question_markdown
from .pdf import AT_ONCE, pdf_text
from .texts import EXAMPLES, MODEL_NAME, TEXTS

FRAME_SECONDS = 0.05  # between two updates of a page
KEEP_SECONDS = 1.0  # between two times that a browser keeps an answer so far
QUEUE_SECONDS = 0.25  # between two looks at a waiting person's place
QUEUE_LOOK_SECONDS = 0.02  # between two looks at Gradio's own queue; its 1 ms keeps an idle page's processor busy
PROGRESS_LOOK_SECONDS = 1.0  # between two looks for Gradio's progress bars, of which this page has none
MOST_WAITING = 100  # things that browsers ask for and that are not begun yet, each of up to `guard.BODY_BYTES`
FORMULAS = [{"left": left, "right": right, "display": left != r"\("} for left, right in (("$$", "$$"), (r"\(", r"\)"))]
FONTS = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")
READABLE = {  # the theme's own greys are too pale to be read
    "body_text_color_subdued": "*neutral_500",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
}
CHATS = '<input type="search"><ul></ul><input type="file" hidden>'
FOLDER = Path(__file__).resolve().parent


class RunningQuestion:
    """A question of a browser tab on its way to its answer."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.stopped = False

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


def messages(history: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return rounds as the chat component shows them; the last one may have no answer yet."""
    shown = []
    for asked, answered in history:
        shown.append({"role": "user", "content": question_markdown(asked, GRADIO)})
        if answered:
            shown.append({"role": "assistant", "content": answer_markdown(answered, GRADIO)})
    return shown


def counts(answer: Answer, limit: int) -> dict[str, str]:
    """Return what is told beside an answer: tokens of it and all before it, their limit, and tokens a second."""
    tokens = len(answer.request.prompt_ids) + answer.completion_tokens
    seconds = (answer.finished or time.monotonic()) - (answer.first_token or answer.submitted)
    speed = (answer.completion_tokens - 1) / seconds if answer.completion_tokens > 1 and seconds > 0 else 0.0
    return {"tokens": str(tokens), "limit": str(limit), "speed": f"{speed:.3g}" if speed < 100 else f"{speed:.0f}"}


class Page:
    """The page and what happens on it. Chats are kept by their browser, by gradio_page.js, and not here.

    Each event begins with a function of that script, which puts the chat's rounds in the place of `turn`'s value; the
    views of an answer bring back in `turn` what the browser is to keep.

    Args:
        engine: answers.
        sampling: where the sliders stand at first, and what has no slider.
        lang: language of the page: zh, en, or auto.
    """

    def __init__(self, engine: Engine, sampling: SamplingArguments, lang: str) -> None:
        self.engine, self.sampling, self.lang = engine, sampling, lang
        self.limit = engine.model.config.max_sequence_length
        self.asking: dict[str, RunningQuestion] = {}  # by browser tab
        self.draw()

    def draw(self) -> None:
        """Make the components."""
        text = gr.I18n()
        self.turn = gr.JSON(visible="hidden")
        self.show_button = gr.Button(visible="hidden", elem_id="show")
        self.count_button = gr.Button(visible="hidden", elem_id="count")
        self.pdf = gr.JSON(visible="hidden")
        self.pdf_button = gr.Button(visible="hidden", elem_id="pdf")
        with gr.Sidebar(open=False, elem_id="conversations", width=280):
            gr.HTML(CHATS, elem_id="chats")
        with gr.Sidebar(position="right", open=False, elem_id="settings"):
            self.draw_settings(text)
        with gr.Row(elem_id="header"):
            gr.HTML(f"<h1>{MODEL_NAME}</h1>", elem_id="title")
            self.new = gr.Button(text("new_chat"), size="sm", scale=0, min_width=110, elem_id="new")
        self.chatbot = gr.Chatbot(
            show_label=False,
            container=False,
            scale=1,
            height="100%",
            autoscroll=False,  # Gradio's pulls a reader back who scrolls up; gradio_page.js does not
            editable="user",
            buttons=["copy"],
            latex_delimiters=FORMULAS,
            allow_tags=False,
            elem_id="chat",
        )
        self.status = gr.Markdown(elem_id="status")
        gr.HTML('<p id="notice" role="status"></p>', elem_id="notices")
        with gr.Column(elem_id="ask"):
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
            self.attach = gr.Button("+", elem_id="attach")

    def draw_settings(self, text: gr.I18n) -> None:
        """Make the components of the settings' side bar."""
        gr.Markdown(text("settings"), elem_classes="heading")
        self.system = gr.Textbox(label=text("system"), info=text("system_info"), lines=2, max_lines=8, elem_id="system")

        def slide(name: str, slider: Slider) -> gr.Slider:
            return gr.Slider(*slider, label=text(name), info=text(f"{name}_info"))

        drawn = sliders(self.sampling, self.limit)
        self.sliders = {name: slide(name, drawn.pop(name)) for name in FIRST_SLIDERS}
        with gr.Accordion(text("more"), open=False, elem_id="more"):
            self.sliders |= {name: slide(name, slider) for name, slider in drawn.items()}
        gr.Markdown(text("chat"), elem_classes="heading")
        with gr.Row():
            self.save = gr.Button(text("save"), size="sm", elem_id="save")
            self.load = gr.Button(text("load"), size="sm", elem_id="load")
        self.export = gr.Button(text("export"), size="sm", elem_id="export")

    def connect(self, demo: gr.Blocks) -> None:
        """Say what happens when."""
        event = {"api_visibility": "private", "show_progress": "hidden"}
        # "multiple": else Gradio drops a question sent while it still ends the answer before
        asking = event | {"trigger_mode": "multiple", "concurrency_limit": None}
        chosen = [self.system, *self.sliders.values()]
        views = [self.chatbot, self.turn, self.question, self.status]
        begin = "(question, _, ...chosen) => chatglm.begin(question, ...chosen)"
        again = "(_, ...chosen) => chatglm.again(...chosen).then(([question, ...rest]) => rest)"
        edited = "(_, ...chosen) => chatglm.begin(undefined, ...chosen).then(([question, ...rest]) => rest)"
        asked = [self.question.submit(self.ask, [self.question, self.turn, *chosen], views, js=begin, **asking)]
        for listener, handler, js in (
            (self.chatbot.example_select, self.ask_example, edited),
            (self.chatbot.retry, self.retry, again),
            (self.chatbot.edit, self.edit, edited),
        ):
            asked.append(listener(handler, [self.turn, *chosen], views, js=js, **asking))
        for answered in asked:
            answered.failure(None, None, None, js="() => chatglm.end()", **event)
        self.turn.change(None, self.turn, None, js="turn => chatglm.keep(turn)", **event)
        self.question.stop(self.stop, js="() => chatglm.stop()", **event)
        shown = [self.chatbot, self.question, self.status, self.system]
        self.chatbot.undo(self.show, self.turn, shown, js="() => chatglm.undo()", **event)
        self.show_button.click(self.show, self.turn, shown, js="() => chatglm.view()", **event)
        self.count_button.click(self.count, [self.question, self.sliders["max_length"]], self.status, **event)
        reading = event | {"trigger_mode": "multiple", "concurrency_limit": AT_ONCE}
        read = self.pdf_button.click(self.read_pdf, self.pdf, self.pdf, js="() => chatglm.pdf()", **reading)
        read.then(None, self.pdf, None, js="read => chatglm.pdfRead(read)", **event)
        read.failure(None, None, None, js="() => chatglm.pdfRead()", **event)
        welcomed = demo.load(self.welcome, self.turn, [*shown, self.turn], js="() => chatglm.view()", **event)
        welcomed.then(None, self.turn, None, js="given => chatglm.start(given)", **event)
        for button, action in (
            (self.new, "renew"), (self.save, "save"), (self.export, "export"), (self.load, "load"),
            (self.attach, "attach"),
        ):  # fmt: skip
            button.click(None, None, None, js=f"() => {{ chatglm.{action}(); }}", **event)
        gr.api(self.chat, api_name="chat", concurrency_limit=None)

    # what happens

    def language(self, request: gr.Request) -> str:
        """Return the language that a visitor reads: if there is a choice, the first one that the browser names."""
        if self.lang != "auto":
            return self.lang
        return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"

    def show(self, request: gr.Request, view: Any) -> tuple:
        """Return what is to be seen of a chat: its rounds, the box, an empty status, and the system prompt."""
        view = view if isinstance(view, dict) else {}
        try:
            shown, note = messages(check_history(view.get("rounds", []))), ""
        except WrongChatError as error:
            shown, note = [], self.note([describe(error, TEXTS[self.language(request)])])
        draft, system = (text if isinstance(text, str) else "" for text in (view.get("draft"), view.get("system")))
        return shown, gr.Textbox(draft) if draft else gr.skip(), note, system

    def welcome(self, request: gr.Request, view: Any) -> tuple:
        """Show the chat that the browser has kept, and the examples in the visitor's language; send it the texts."""
        shown, *rest = self.show(request, view)
        language = self.language(request)
        examples = [
            {"text": example.question, "display_text": example.title} for example in EXAMPLES[language].values()
        ]
        welcome = f"<h2>{TEXTS[language]['welcome']}</h2>"
        return gr.Chatbot(shown, examples=examples, placeholder=welcome), *rest, {"texts": TEXTS[language]}

    def chosen_sampling(self, values: Sequence[float], **changes: Any) -> SamplingArguments:
        """Return the sampling arguments that the sliders are set to.

        Raises:
            ValueError: one is outside its range.
        """
        named = dict(zip(self.sliders, values, strict=True))
        named = {name: int(value) if self.sliders[name].step == 1 else value for name, value in named.items()}
        return replace(self.sampling, **(named | changes))

    async def answer(
        self,
        request: gr.Request,
        query: str,
        view: Any,
        chosen: Sequence[Any],
        before: int | None = None,
        **more: Any,
    ) -> AsyncIterator[dict]:
        """Answer a question that follows some rounds; yield what changes on the page.

        Args:
            request: of the visitor's browser.
            query: the question.
            view: the rounds that are shown, and the browser's name for this answer.
            chosen: the system prompt, and what the sliders are set to.
            before: how many of the rounds the question follows; None: all.
            more: changes to sampling arguments.
        """
        texts, tab = TEXTS[self.language(request)], request.session_hash
        if not isinstance(view, dict):  # the browser has an answer running
            yield gr.skip()
            return
        if tab in self.asking or not query.strip():
            yield {self.chatbot: self.show(request, view)[0], self.turn: {"id": view.get("id"), "state": "failed"}}
            return
        asking = self.asking[tab] = RunningQuestion()
        turn = {"id": view.get("id"), "question": query, "answer": "", "state": "running"}
        notes, shown, history, kept = [], [], [], 0.0
        try:
            history = check_history(view.get("rounds"))
            rounds = history[: len(history) if before is None else before]
            shown, turn["at"] = messages(rounds), len(rounds)
            yield {
                self.chatbot: [*shown, *messages([(query, "")])],
                self.turn: dict(turn),
                self.question: gr.Textbox("", submit_btn=False, stop_btn=True),
                self.status: "",
            }
            sampling = self.chosen_sampling(chosen[1:], **more)
            system = [(chosen[0], SYSTEM_REPLY)] if chosen[0] else []
            asked, dropped = await run_in_threadpool(
                make_request, self.engine.tokenizer, query, [*system, *rounds], sampling
            )
            if dropped:
                notes.append(texts["dropped"].format(dropped))
            asking.answer = self.engine.submit(asked)
            if asking.stopped:
                asking.answer.cancel()
            async with aclosing(follow(self.engine, asking.answer)) as views:
                async for turn["answer"], place, reason in views:
                    waiting = texts["queue"].format(place - 1) if place > 1 else texts["next"] if place else ""
                    changes = {self.chatbot: [*shown, *messages([(query, turn["answer"])])], self.status: waiting}
                    if (now := time.monotonic()) - kept >= KEEP_SECONDS:
                        kept, changes[self.turn] = now, dict(turn)
                    yield changes
                    if reason == "length":
                        notes.append(texts["length"])
        except (*ANSWER_ERRORS, ValueError) as error:
            notes = [describe(error, texts, self.limit)]
        finally:  # also where the tab was closed
            asking.stop()
            del self.asking[tab]
        if turn["answer"]:
            turn |= {"state": "ended", "notes": counts(asking.answer, sampling.max_length)}
            shown, box = [*shown, *messages([(query, turn["answer"])])], gr.Textbox(submit_btn=True, stop_btn=False)
        else:  # the question is not lost
            turn["state"] = "failed"
            shown, box = messages(history), gr.Textbox(query, submit_btn=True, stop_btn=False)
        yield {self.chatbot: shown, self.turn: turn, self.question: box, self.status: self.note(notes)}

    def note(self, notes: list[str]) -> str:
        """Return notes as they are shown below the chat, as text."""
        return question_markdown(" ".join(notes), GRADIO)

    async def ask(self, request: gr.Request, query: str, view: Any, *chosen: Any) -> AsyncIterator[dict]:
        """Answer what was typed."""
        async for changes in self.answer(request, query, view, chosen):
            yield changes

    async def ask_example(
        self, request: gr.Request, event: gr.SelectData, view: Any, *chosen: Any
    ) -> AsyncIterator[dict]:
        """Answer an example's question."""
        async for changes in self.answer(request, event.value["text"], view, chosen):
            yield changes

    async def retry(self, request: gr.Request, view: Any, *chosen: Any) -> AsyncIterator[dict]:
        """Answer the last question once more, with random numbers of its own."""
        query = view["rounds"][-1][0] if view else ""
        async for changes in self.answer(request, query, view, chosen, -1, seed=None):
            yield changes

    async def edit(self, request: gr.Request, event: gr.EditData, view: Any, *chosen: Any) -> AsyncIterator[dict]:
        """Answer an earlier question in its new wording; what came after it becomes an earlier version."""
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        async for changes in self.answer(request, event.value, view, chosen, index // 2):
            yield changes

    def stop(self, request: gr.Request) -> None:
        """End the visitor's running answer; what was said stays."""
        if request.session_hash in self.asking:
            self.asking[request.session_hash].stop()

    def count(self, request: gr.Request, question: str, max_length: float) -> str:
        """Return how many tokens a question has, for the status."""
        tokens = len(self.engine.tokenizer.encode_prompt(question))
        return self.note([TEXTS[self.language(request)]["question_tokens"].format(tokens, int(max_length))])

    def read_pdf(self, request: gr.Request, file: Any) -> dict[str, str]:
        """Return the text of a PDF that comes as a data: address, or what is to be said of it."""
        data = file.get("data") if isinstance(file, dict) else None
        try:
            return {"text": pdf_text(base64.b64decode(str(data).partition(",")[2]))}
        except ValueError:  # an UnreadablePDFError, or no base64
            return {"error": TEXTS[self.language(request)]["no_pdf_text"]}

    async def chat(
        self,
        message: str,
        history: list[list[str]] | None = None,
        max_length: int = SamplingArguments.max_length,
        top_p: float = SamplingArguments.top_p,
        temperature: float = SamplingArguments.temperature,
    ) -> AsyncIterator[str]:
        """Answer a message that follows the rounds of history, [[question, answer], …]; yields the answer so far."""
        try:
            sampling = replace(self.sampling, max_length=int(max_length), top_p=top_p, temperature=temperature)
            request, _ = await run_in_threadpool(
                make_request, self.engine.tokenizer, message, check_history(history or []), sampling
            )
            answer = self.engine.submit(request)
            try:
                async with aclosing(follow(self.engine, answer)) as views:
                    async for text, _, _ in views:
                        yield text
            finally:
                answer.cancel()
        except (*ANSWER_ERRORS, ValueError) as error:
            raise gr.Error(str(error)) from error


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
    demo.queue(max_size=MOST_WAITING)
    demo._queue.sleep_when_free = QUEUE_LOOK_SECONDS
    demo._queue.progress_update_sleep_when_free = PROGRESS_LOOK_SECONDS
    _, address, _ = demo.launch(
        server_name=arguments.host,
        server_port=arguments.port or free_port(arguments.host),
        share=arguments.share,
        auth=password_check(user, password) if user else None,
        ssr_mode=False,
        mcp_server=False,
        quiet=True,
        show_error=True,
        footer_links=["api"],
        i18n=gr.I18n(**languages),
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE_FONTS).set(
            **READABLE
        ),
        css_paths=FOLDER / "gradio_page.css",
        head=f"<script>{(FOLDER / 'gradio_page.js').read_text(encoding='utf-8')}</script>",
        app_kwargs={"middleware": [Middleware(Guard)]},
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
