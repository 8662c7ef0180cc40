"""Serve ChatGLM-6B over HTTP, to many clients at once: the original's route, OpenAI's, and event streams.

    python api.py                                     the embedded mini checkpoint on http://127.0.0.1:8000
    python api.py --model THUDM/chatglm-6b --port 80  the real one
    curl http://127.0.0.1:8000 -d '{"prompt": "你好", "history": []}'

/docs describes every route. SIGTERM and Ctrl-C let running answers finish, for up to --drain-seconds.
"""

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.command_line import Text
from server.arguments import ServerArguments

CHINESE = """通过 HTTP 提供 ChatGLM-6B，可同时服务多个客户端：原版接口、OpenAI 接口和事件流。

    python api.py                                     自带的迷你模型，http://127.0.0.1:8000
    python api.py --model THUDM/chatglm-6b --port 80  真正的模型
    curl http://127.0.0.1:8000 -d '{"prompt": "你好", "history": []}'

/docs 说明每个接口。收到 SIGTERM 或 Ctrl-C 后，正在生成的回答最多再继续 --drain-seconds 秒。
"""


def main() -> int:
    """Run the server and return the exit status."""
    model_arguments, sampling, arguments = parse_arguments(
        Text(__doc__, CHINESE), ModelArguments, SamplingArguments, ServerArguments
    )
    arguments.check_address()
    arguments.adapters()  # refuses a wrong folder before the model is loaded
    model_arguments.announce()
    from loading.load import load_model_and_tokenizer  # these import PyTorch, which takes seconds
    from server.app import build_app, serve, start_engine
    from server.logs import log_to_standard_error

    log_to_standard_error()
    model, tokenizer = load_model_and_tokenizer(model_arguments)
    engine = start_engine(model, tokenizer, arguments)
    return serve(build_app(engine, arguments, sampling, description=__doc__), engine, arguments)


if __name__ == "__main__":
    run_main(main)
