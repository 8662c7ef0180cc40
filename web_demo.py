"""Chat with ChatGLM-6B in a web browser.

    python web_demo.py                               the embedded mini checkpoint on http://127.0.0.1:7860
    python web_demo.py --model THUDM/chatglm-6b      the real one; --model also takes a folder
    python web_demo.py --host 0.0.0.0 --auth me:secret

Ctrl-C ends the program. Nothing is asked of other computers, unless --share is given.
"""

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.command_line import Text
from pages.arguments import PageArguments

CHINESE = """在浏览器里与 ChatGLM-6B 对话。

    python web_demo.py                               自带的迷你模型，http://127.0.0.1:7860
    python web_demo.py --model THUDM/chatglm-6b      真正的模型；--model 也可以是文件夹
    python web_demo.py --host 0.0.0.0 --auth me:secret

Ctrl-C 终止程序。除非给出 --share，不访问其他计算机。
"""


def main(description: str = Text(__doc__, CHINESE)) -> int:
    """Run the page and return the exit status; the description is what --help begins with."""
    model_arguments, sampling, arguments = parse_arguments(
        description, ModelArguments, SamplingArguments, PageArguments
    )
    arguments.check_address()
    model_arguments.announce()
    from engine import Engine  # these import PyTorch and Gradio, which takes seconds
    from loading.load import load_model_and_tokenizer
    from pages.gradio_page import build_demo, serve

    model, tokenizer = load_model_and_tokenizer(model_arguments)
    engine = Engine(model, tokenizer, max_batch_size=arguments.max_batch_size)
    return serve(build_demo(engine, sampling, arguments.lang), engine, arguments)


if __name__ == "__main__":
    run_main(main)
