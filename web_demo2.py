"""Chat with ChatGLM-6B in a web browser, by Streamlit.

    pip install streamlit
    python web_demo2.py                              the embedded mini checkpoint on http://127.0.0.1:8501
    python web_demo2.py --model THUDM/chatglm-6b     the real one; --model also takes a folder
    streamlit run web_demo2.py -- --model PATH       the same, with Streamlit's own flags before the --

Ctrl-C ends the program. Nothing is asked of other computers.
"""

import sys

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.command_line import Text
from pages.arguments import StreamlitArguments

CHINESE = """用 Streamlit 在浏览器里与 ChatGLM-6B 对话。

    pip install streamlit
    python web_demo2.py                              自带的迷你模型，http://127.0.0.1:8501
    python web_demo2.py --model THUDM/chatglm-6b     真正的模型；--model 也可以是文件夹
    streamlit run web_demo2.py -- --model PATH       同上，Streamlit 自己的选项写在 -- 之前

Ctrl-C 终止程序。不访问其他计算机。
"""


def parse() -> tuple[ModelArguments, SamplingArguments, StreamlitArguments]:
    """Parse the command line."""
    return parse_arguments(Text(__doc__, CHINESE), ModelArguments, SamplingArguments, StreamlitArguments)


def draw() -> None:
    """Draw the page, in a process that Streamlit runs."""
    model_arguments, sampling, arguments = parse()
    from pages.streamlit_page import draw_page, load_engine

    draw_page(load_engine(model_arguments, arguments.max_batch_size), sampling, arguments.lang)


def main() -> None:
    """Load the model, so that an error in that is told here, and have Streamlit run this file."""
    model_arguments, _, arguments = parse()
    arguments.check_address()
    model_arguments.announce()
    from pages.streamlit_page import load_engine, serve  # imports PyTorch and Streamlit, which takes seconds

    load_engine(model_arguments, arguments.max_batch_size)
    serve(__file__, arguments)


if __name__ == "__main__":
    streamlit = sys.modules.get("streamlit")  # there, where it runs this file
    if streamlit is not None and streamlit.runtime.exists():
        draw()
    else:
        run_main(main)
