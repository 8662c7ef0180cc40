"""The web page, by Streamlit, which runs `draw_page` anew for whatever a visitor does."""

import secrets
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import streamlit as st
from streamlit.web import cli

from engine import Answer, Engine
from loading.arguments import ModelArguments, SamplingArguments
from loading.load import load_model_and_tokenizer

from .arguments import StreamlitArguments
from .content import ANSWER_ERRORS, FIRST_SLIDERS, HISTORY_CHARACTERS, describe, make_request, newest, sliders
from .markdown import STREAMLIT, answer_markdown, question_markdown
from .texts import MODEL_NAME, TEXTS

CONVERSATIONS = 1000  # that are kept, the ones used last


@st.cache_resource(show_spinner=False)
def load_engine(arguments: ModelArguments, max_batch_size: int) -> Engine:
    """Return the engine that answers everybody."""
    return Engine(*load_model_and_tokenizer(arguments), max_batch_size=max_batch_size)


@dataclass
class Conversation:
    """What one visitor has said and been told; kept from one run of the page to the next, and when it is loaded anew.

    Attributes:
        history: (question, answer) rounds.
        answer: the last one, maybe still being generated.
        answering: held meanwhile.
    """

    history: list[list[str]] = field(default_factory=list)
    answer: Answer | None = None
    answering: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """End a running answer and wait until the run of the page that shows it has kept it.

        Streamlit starts the next run in another thread before the one before has noticed that it is over.
        """
        if self.answer is not None:
            self.answer.cancel()
        with self.answering:
            pass


@st.cache_resource(show_spinner=False)
def conversations() -> OrderedDict[str, Conversation]:
    """Return the conversations of all visitors by their names."""
    return OrderedDict()


def this_conversation() -> Conversation:
    """Return the conversation that the page's address names, which nobody can guess; a new one gets a new name."""
    kept, name = conversations(), st.query_params.get("chat")
    if name not in kept:  # a name of somebody's own choice could be guessed
        name = st.query_params["chat"] = secrets.token_urlsafe(16)
    conversation = kept.setdefault(name, Conversation())
    kept.move_to_end(name)
    while len(kept) > CONVERSATIONS:
        kept.popitem(last=False)
    return conversation


def draw_page(engine: Engine, sampling: SamplingArguments, lang: str) -> None:
    """Draw the page, and answer the question that was typed, if there is one.

    Args:
        engine: answers.
        sampling: where the sliders stand at first, and what has no slider.
        lang: language of the page: zh, en, or auto for the browser's.
    """
    st.set_page_config(page_title=MODEL_NAME)
    if lang == "auto":
        lang = "zh" if (st.context.locale or "").lower().startswith("zh") else "en"
    texts = TEXTS[lang]
    conversation = this_conversation()
    conversation.stop()
    with st.sidebar:
        st.header(texts["settings"])
        first, more, chosen = st.container(), st.expander(texts["more"]), {}
        for name, slider in sliders(sampling, engine.model.config.max_sequence_length).items():
            place = first if name in FIRST_SLIDERS else more
            chosen[name] = place.slider(texts[name], *slider, help=texts[f"{name}_info"], key=name)
        if st.button(texts["clear"], width="stretch"):
            conversation.history.clear()
    st.title(MODEL_NAME)
    for query, reply in conversation.history:
        st.chat_message("user").markdown(question_markdown(query, STREAMLIT))
        st.chat_message("assistant").markdown(answer_markdown(reply, STREAMLIT))
    if not conversation.history:
        st.write(texts["welcome"])
    if query := st.chat_input(texts["placeholder"]):
        st.chat_message("user").markdown(question_markdown(query, STREAMLIT))
        with st.chat_message("assistant"):
            answer_question(engine, query, conversation, replace(sampling, **chosen), texts)


def answer_question(
    engine: Engine, query: str, conversation: Conversation, sampling: SamplingArguments, texts: dict[str, str]
) -> None:
    """Answer a question below those before it, as the answer is generated; keep the round, of a stopped one too."""
    place, reply, history = st.empty(), "", conversation.history
    if len(query) > HISTORY_CHARACTERS:
        st.error(texts["too_large"])
        return
    try:
        request, dropped = make_request(engine.tokenizer, query, history, sampling)
        with conversation.answering:
            answer = conversation.answer = engine.submit(request)
            try:
                for piece in answer:
                    reply += piece.text
                    place.markdown(answer_markdown(reply, STREAMLIT))
            finally:  # also where Streamlit ends this run, because its visitor pressed Stop or left
                answer.cancel()
                if reply:
                    history.append([query, reply])
                    history[:] = newest(history)
    except (*ANSWER_ERRORS, ValueError) as error:
        told = describe(error, texts, engine.model.config.max_sequence_length)
        st.error(question_markdown(told, STREAMLIT))
        return
    if dropped:
        st.caption(texts["dropped"].format(dropped))
    if answer.finish_reason == "length":
        st.caption(texts["length"])


def serve(script: str, arguments: StreamlitArguments) -> None:
    """Have Streamlit run a script for each visitor, with this process's command line, until Ctrl-C.

    What else is set is in `.streamlit/config.toml` beside the script.
    """
    flags = [f"--server.address={arguments.host}", f"--server.port={arguments.port}"]
    cli.main(["run", script, *flags, "--", *sys.argv[1:]])
