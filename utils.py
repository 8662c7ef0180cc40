"""What programs written for the original import: `load_model_on_gpus` and `auto_configure_device_map`, and the loader.

from utils import load_model_on_gpus
model = load_model_on_gpus("THUDM/chatglm-6b", num_gpus=2)

from utils import ModelArguments, load_model_and_tokenizer
model, tokenizer = load_model_and_tokenizer(ModelArguments("THUDM/chatglm-6b", quantization_bit=4))
"""

from loading.arguments import ModelArguments, SamplingArguments
from loading.checkpoint import LoadError
from loading.dispatch import auto_configure_device_map
from loading.load import load_model_and_tokenizer, load_model_on_gpus

__all__ = [
    "LoadError",
    "ModelArguments",
    "SamplingArguments",
    "auto_configure_device_map",
    "load_model_and_tokenizer",
    "load_model_on_gpus",
]
