"""Configuration of ChatGLM-6B: the keys of THUDM/chatglm-6b's `config.json`, with their rules.

Source: the published configuration of THUDM/chatglm-6b (v1.1) and of its first release (150,528 vocabulary rows).
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from transformers import PretrainedConfig

from .bits import BITS

QUANTIZATION_BITS = (0, *BITS)
IS_REMOTE_CODE = __name__.startswith("transformers_modules.")  # else a package, which executes no checkpoint's code
# compat: sqrt(2 l) of the 28-layer model; the original uses it whatever `num_layers` says
RESIDUAL_SCALE = math.sqrt(2 * 28)

AUTO_MAP = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
}


WHOLE_NUMBERS = {  # least and most; far more than any such model has, and no more than is computed at once
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 20),
    "num_layers": (1, 1000),
    "num_attention_heads": (1, 1 << 16),
    "inner_hidden_size": (1, 1 << 22),
    "max_sequence_length": (2, 1 << 24),
    "bos_token_id": (0, 1 << 24),
    "eos_token_id": (0, 1 << 24),
    "mask_token_id": (0, 1 << 24),
    "gmask_token_id": (0, 1 << 24),
    "pad_token_id": (0, 1 << 24),
    "pre_seq_len": (1, 1 << 12),
}
OPTIONAL = ("mask_token_id", "gmask_token_id", "pad_token_id", "pre_seq_len")  # may be null


def check_whole_number(name: str, value: object, least: int, most: int) -> None:
    """Refuse a value that is no whole number in a range: config.json can hold anything.

    Raises:
        ValueError: names the key, the range and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r:.80}")


class ChatGLMConfig(PretrainedConfig):
    """Describe a ChatGLM-6B model.

    Args:
        vocab_size: rows of the word embedding; 130,528, or 150,528 in the first release (20,000 image tokens first).
        hidden_size: width of the hidden states; a multiple of `4 * num_attention_heads` (two rotary channels, two
            halves each).
        num_layers: number of blocks.
        num_attention_heads: attention heads of a block.
        inner_hidden_size: width of the feed-forward layer, `4 * hidden_size` if not given.
        layernorm_epsilon: added to the variance in every layer norm.
        max_sequence_length: longest sequence (prompt and answer) that the model was trained on, in tokens.
        use_cache: whether `forward` returns the key/value cache by default.
        bos_token_id, eos_token_id: `<sop>`, which starts the answer, and `<eop>`, which ends it.
        mask_token_id, gmask_token_id: `[MASK]` and `[gMASK]`, the place that the answer fills. The first release's
            configuration has neither; they then lie 4 and 3 below `bos_token_id`, as in both vocabularies.
        pad_token_id: `<pad>`, on the left of shorter prompts in a batch.
        position_encoding_2d: always true in the published models (position in the prompt, position in the answer).
        quantization_bit: 0 for float weights, 8 or 4 for a quantised checkpoint.
        quantization_embeddings: whether the word embedding and the output layer are quantised, too.
        pre_seq_len: number of P-Tuning v2 prefix tokens; None for no prefix.
        prefix_projection: whether the prefix is computed by a two-layer network from a smaller embedding.

    Raises:
        ValueError: a value that the model cannot have; the message names the key, the rule and the value.
    """

    model_type = "chatglm"
    attribute_map = {"num_hidden_layers": "num_layers", "max_position_embeddings": "max_sequence_length"}
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # both names of it, see modeling

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        inner_hidden_size: int | None = None,
        layernorm_epsilon: float = 1e-5,
        max_sequence_length: int = 2048,
        use_cache: bool = True,
        bos_token_id: int = 130004,
        eos_token_id: int = 130005,
        mask_token_id: int | None = None,
        gmask_token_id: int | None = None,
        pad_token_id: int = 3,
        position_encoding_2d: bool = True,
        quantization_bit: int = 0,
        quantization_embeddings: bool = False,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        **kwargs,
    ) -> None:
        inner_hidden_size = 4 * hidden_size if inner_hidden_size is None else inner_hidden_size
        values = dict(locals())
        for name, (least, most) in WHOLE_NUMBERS.items():
            if values[name] is not None or name not in OPTIONAL:
                check_whole_number(name, values[name], least, most)
        if not isinstance(layernorm_epsilon, float | int) or not 0 <= layernorm_epsilon < 1:
            raise ValueError(f"layernorm_epsilon must be a number from 0 to 1, got {layernorm_epsilon!r:.80}")
        if hidden_size % (4 * num_attention_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 4 * num_attention_heads ({4 * num_attention_heads}), "
                f"got {hidden_size}"
            )
        if quantization_bit not in QUANTIZATION_BITS:
            raise ValueError(f"quantization_bit must be 0, 4 or 8, got {quantization_bit}")
        if not position_encoding_2d:
            raise ValueError("position_encoding_2d must be true (every ChatGLM-6B has it), got false")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.inner_hidden_size = inner_hidden_size
        self.layernorm_epsilon = layernorm_epsilon
        self.max_sequence_length = max_sequence_length
        self.use_cache = use_cache
        self.mask_token_id = bos_token_id - 4 if mask_token_id is None else mask_token_id
        self.gmask_token_id = bos_token_id - 3 if gmask_token_id is None else gmask_token_id
        self.position_encoding_2d = position_encoding_2d
        self.quantization_bit = quantization_bit
        self.quantization_embeddings = quantization_embeddings
        self.pre_seq_len = pre_seq_len
        self.prefix_projection = prefix_projection
        if not IS_REMOTE_CODE:
            for name in ("auto_map", "custom_pipelines"):  # what a checkpoint would have the library execute
                kwargs.pop(name, None)
        for name in ("num_labels", "id2label", "label2id"):  # a classifier's, for which the library makes lists
            kwargs.pop(name, None)
        # compat: the output layer is the word embedding; files of the original store both copies
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            **kwargs,
        )

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Write `config.json`, and beside it the code that makes the folder load as remote code."""
        loaded = self.__dict__.get("auto_map")
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)
        if loaded is None:
            del self.auto_map
        copy_code(save_directory, self.name_or_path)


def copy_code(directory: str | Path, name_or_path: str | None = None) -> None:
    """Copy the model's code into a checkpoint folder.

    Args:
        directory: the checkpoint folder.
        name_or_path: of the checkpoint that the code was loaded with. The library takes the modules out of such a
            folder, but leaves the kernels' sources in it.
    """
    source, target = Path(__file__).resolve().parent, Path(directory).resolve()
    files = {file.name: file for file in source.glob("*.py") if file.name != "__init__.py"}
    for folder in (Path(name_or_path or source), source):
        files.update({f"kernels/{file.name}": file for file in folder.glob("kernels/*.c*")})
    for name, file in files.items():
        if file.resolve() != target / name:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target / name)
