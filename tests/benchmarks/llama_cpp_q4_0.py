"""Run matrices of ChatGLM-6B's shapes by llama.cpp or ik_llama.cpp: a GPT-NeoX GGUF file of random Q4_0 weights.

Needs `pip install gguf`, and `llama-cpp-python` or `ik-llama-cpp-python`. The latter's wheel is built for AVX2; it
takes the `libllama.so` of a build for this machine from the variable IK_LLAMA_CPP_LIB_PATH. As in files made by
llama-quantize for Q4_0, the output layer is Q6_K.
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from pathlib import Path

import numpy as np

from chatglm import ChatGLMConfig

Q4_0_BLOCK, Q6_K_BLOCK = (32, 18), (256, 210)  # weights and bytes; a half scale at the start, or at the end


MODULES = {"llama.cpp": "llama_cpp.llama_cpp", "ik_llama.cpp": "ik_llama_cpp._ctypes_api"}  # of their C functions


def installed() -> list[str]:
    """Return the names of those of llama.cpp and ik_llama.cpp that are installed, if gguf is."""
    found = {name: importlib.util.find_spec(module.split(".")[0]) for name, module in MODULES.items()}
    return [name for name, spec in found.items() if spec and importlib.util.find_spec("gguf")]


def random_blocks(rows: int, columns: int, block: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Return random quantised weights of a matrix, uint8 `[rows, bytes of a row]`, about 0.02 in size."""
    weights, size = block
    data = generator.integers(0, 256, (rows * columns // weights, size), dtype=np.uint8)
    half = np.array([0.004 if block == Q4_0_BLOCK else 1e-5], dtype=np.float16).view(np.uint8)
    data[:, slice(0, 2) if block == Q4_0_BLOCK else slice(-2, None)] = half
    return data.reshape(rows, -1)


def write_gguf(file: Path, config: ChatGLMConfig) -> None:
    """Write a GPT-NeoX model with the matrix shapes of a configuration."""
    import gguf

    e, inner, kinds = config.hidden_size, config.inner_hidden_size, gguf.GGMLQuantizationType
    writer, generator = gguf.GGUFWriter(file, "gptneox"), np.random.default_rng(0)
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(e)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(inner)
    writer.add_rope_dimension_count(e // config.num_attention_heads)
    writer.add_head_count(config.num_attention_heads)
    writer.add_parallel_residual(False)
    writer.add_layer_norm_eps(config.layernorm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(e, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(e, dtype=np.float32))

    matrices = {}
    for layer in range(config.num_layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm")
        add_norm(f"{block}.ffn_norm")
        shapes = {"attn_qkv": (3 * e, e), "attn_output": (e, e), "ffn_up": (inner, e), "ffn_down": (e, inner)}
        for name, (rows, columns) in shapes.items():
            if (rows, columns) not in matrices:  # each shape is made once, and written for every layer
                matrices[rows, columns] = random_blocks(rows, columns, Q4_0_BLOCK, generator)
            writer.add_tensor(f"{block}.{name}.weight", matrices[rows, columns], raw_dtype=kinds.Q4_0)
            writer.add_tensor(f"{block}.{name}.bias", np.zeros(rows, dtype=np.float32))
    add_norm("output_norm")
    for name, block, kind in (("token_embd", Q4_0_BLOCK, kinds.Q4_0), ("output", Q6_K_BLOCK, kinds.Q6_K)):
        writer.add_tensor(f"{name}.weight", random_blocks(config.vocab_size, e, block, generator), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENCE = LOG_CALLBACK(lambda level, text, data: None)


class LlamaCpp:
    """A loaded GGUF model and the tokens it has read, for up to `sequences` sequences of equal length.

    Args:
        name: one of `installed`; a process has room for one only, as their libraries have the same names.
        file: the GGUF file.
        threads: that compute.
        context: most tokens of a sequence.
        sequences: that are read together.
    """

    def __init__(self, name: str, file: Path, threads: int, context: int, sequences: int = 1) -> None:
        self.library = library = importlib.import_module(MODULES[name])
        functions = library._lib
        functions.llama_log_set.argtypes = [LOG_CALLBACK, ctypes.c_void_p]
        functions.llama_log_set(SILENCE, None)
        library.llama_backend_init()
        options = library.llama_model_default_params()
        options.use_mmap = False  # pages of a mapped file can leave the memory between two measurements
        if hasattr(options, "repack_tensors"):
            options.repack_tensors = True  # ik_llama.cpp's layout for speed; llama.cpp chooses its own by itself
        self.model = library.llama_model_load_from_file(str(file).encode(), options)
        parameters = library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = context * sequences, sequences
        parameters.n_batch = parameters.n_ubatch = 512
        if sequences > 1 and hasattr(parameters, "flash_attn"):
            parameters.flash_attn = False  # ik_llama.cpp's aborts on several sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = library.llama_init_from_model(self.model, parameters) if self.model else None
        if not self.context:
            raise RuntimeError(f"{name} cannot load {file}")
        self.batch = library.llama_batch_init(512, 0, 1)
        self.length = 0

    def close(self) -> None:
        """Release the memory."""
        self.library.llama_batch_free(self.batch)
        self.library.llama_free(self.context)
        free = getattr(self.library, "llama_model_free", None) or self.library.llama_free_model  # ik_llama.cpp's name
        free(self.model)

    def clear(self) -> None:
        """Forget what was read."""
        if hasattr(self.library, "llama_kv_cache_clear"):
            self.library.llama_kv_cache_clear(self.context)  # ik_llama.cpp's
        else:
            self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self.length = 0

    def read(self, tokens: list[int], sequences: int = 1) -> float:
        """Read tokens (the same for each sequence), logits at the last; return the seconds it took."""
        start, batch, place = time.perf_counter(), self.batch, 0
        for sequence in range(sequences):
            for index, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, self.length + index
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                batch.logits[place] = index == len(tokens) - 1
                place += 1
        batch.n_tokens = place
        status = self.library.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returns {status}")
        self.library.llama_get_logits_ith(self.context, place - 1)[0]  # waits for the result
        self.length += len(tokens)
        return time.perf_counter() - start
