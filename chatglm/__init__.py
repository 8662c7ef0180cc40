"""ChatGLM-6B as a package: importing it makes `AutoModel.from_pretrained` use this code for ChatGLM checkpoints."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from .cache import ChatGLMCache
from .configuration_chatglm import ChatGLMConfig
from .modeling_chatglm import ChatGLMForConditionalGeneration, ChatGLMModel
from .sampler import InvalidLogitsError
from .tokenization_chatglm import ChatGLMTokenizer, IncrementalDecoder, PromptTooLongError, build_prompt

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
    "build_prompt",
]


def _register() -> None:
    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig)
    AutoTokenizer.register(ChatGLMConfig, slow_tokenizer_class=ChatGLMTokenizer)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        auto_class.register(ChatGLMConfig, ChatGLMForConditionalGeneration)
    _prefer_registered_classes()


def _prefer_registered_classes() -> None:
    """Make older libraries use these classes even where a checkpoint brings files of its own.

    compat: newer libraries do so by themselves; older ones executed the checkpoint's files whenever
    `trust_remote_code=True` was given. The replacement only answers for references to our own three class names.
    """
    from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto

    ours = {
        f"{module}.{registered.__name__}": registered
        for module, registered in (
            ("configuration_chatglm", ChatGLMConfig),
            ("modeling_chatglm", ChatGLMForConditionalGeneration),
            ("tokenization_chatglm", ChatGLMTokenizer),
        )
    }

    def prefer(load_class):
        def get_class(class_reference, *args, **kwargs):
            registered = ours.get(class_reference.split("--")[-1])
            return load_class(class_reference, *args, **kwargs) if registered is None else registered

        return get_class

    for module in (auto_factory, configuration_auto, tokenization_auto):
        module.get_class_from_dynamic_module = prefer(module.get_class_from_dynamic_module)


_register()
