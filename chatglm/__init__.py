"""ChatGLM-6B as a package: importing it makes `AutoModel.from_pretrained` use this code for ChatGLM checkpoints."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import ModuleType

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    dynamic_module_utils,
)

from .answer_text import IncrementalDecoder
from .cache import ChatGLMCache
from .configuration_chatglm import ChatGLMConfig
from .dialogue import SYSTEM_REPLY, PromptTooLongError, build_prompt, messages_to_rounds
from .modeling_chatglm import ChatGLMForConditionalGeneration, ChatGLMModel
from .sampler import InvalidLogitsError
from .tokenization_chatglm import ChatGLMTokenizer

EMBEDDED_CHECKPOINT = str(Path(__file__).resolve().parent)  # `from_pretrained` takes it, wherever pip has put it

__all__ = [
    "EMBEDDED_CHECKPOINT",
    "ChatGLMCache",
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMModel",
    "ChatGLMTokenizer",
    "IncrementalDecoder",
    "InvalidLogitsError",
    "PromptTooLongError",
    "SYSTEM_REPLY",
    "build_prompt",
    "messages_to_rounds",
]


def _register() -> None:
    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig)
    AutoTokenizer.register(ChatGLMConfig, slow_tokenizer_class=ChatGLMTokenizer)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        auto_class.register(ChatGLMConfig, ChatGLMForConditionalGeneration)
    _keep_out_remote_code()


def _keep_out_remote_code() -> None:
    """Execute no Python file of a ChatGLM checkpoint, whatever `trust_remote_code` and the checkpoint say.

    The library takes registered classes only where nobody trusts remote code (transformers 5.0), or does so for models
    but not for tokenizers (5.24). So the one function by which it loads classes out of files answers for ChatGLM
    checkpoints with the classes of this package; `ChatGLMConfig` leaves out what else a checkpoint names.
    """
    load_class = dynamic_module_utils.get_class_from_dynamic_module
    ours = {"configuration_auto": ChatGLMConfig, "tokenization_auto": ChatGLMTokenizer}

    def replace_in(module: ModuleType) -> None:
        @functools.wraps(load_class)
        def get_class(class_reference, pretrained_model_name_or_path, *args, **kwargs):
            if not _is_chatglm(class_reference, pretrained_model_name_or_path, kwargs):
                return load_class(class_reference, pretrained_model_name_or_path, *args, **kwargs)
            registered = ours.get(module.__name__.rpartition(".")[2])
            if registered is None:
                raise ValueError(
                    f"{pretrained_model_name_or_path}: {class_reference} is Python code of the checkpoint, which is "
                    "not executed once the package chatglm is imported, and the package has nothing in its place"
                )
            return registered

        module.get_class_from_dynamic_module = get_class

    for module in list(sys.modules.values()):  # whoever has imported the function; later ones take it from its home
        if isinstance(module, ModuleType) and vars(module).get(load_class.__name__) is load_class:
            replace_in(module)


def _is_chatglm(class_reference: str, name_or_path: str | os.PathLike, kwargs: dict) -> bool:
    """Return whether a checkpoint is ChatGLM's: by its config, or without one by its tokenizer's class."""
    where = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "_commit_hash")
    try:
        config, _ = PretrainedConfig.get_config_dict(
            name_or_path, **{key: kwargs[key] for key in where if key in kwargs}
        )
    except OSError:  # a folder with nothing but a tokenizer
        return class_reference.rpartition(".")[2] == ChatGLMTokenizer.__name__
    return config.get("model_type") == ChatGLMConfig.model_type


_register()
