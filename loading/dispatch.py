"""Spread a model over devices: several GPUs, main memory within a budget, and the checkpoint's files on disk.

A device map says where each part of a model lies: a number is a GPU, `cpu` is main memory, `disk` means that a part
stays in the checkpoint's files and is read whenever it computes. Everything computes on the GPU where it lies, parts
in main memory or on disk on the first GPU, or on the CPU if there is no GPU. accelerate plans maps for a memory budget
and moves activations and offloaded weights while the model runs.
"""

import json
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import (
    check_device_map,
    find_tied_parameters,
    get_balanced_memory,
    get_max_memory,
    set_module_tensor_to_device,
)
from torch import Tensor, nn

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm.quantization import OutputLinear, StoredEmbedding

from .checkpoint import PREFIX_KEYS, LoadError, check_loaded, read_json
from .devices import available_bytes
from .weights import CheckpointWeights, release

Place = int | str  # a GPU's number, or "mps", "cpu", "disk"; PyTorch's names of devices are fine, too
PREFIX_ENCODER = PREFIX_KEYS.removesuffix(".")
EMBEDDING, FINAL_NORM, OUTPUT = "transformer.word_embeddings", "transformer.final_layernorm", "lm_head"
OFFLOADED = ("cpu", "disk")  # places that only keep weights where there is a GPU


# Device maps


def auto_configure_device_map(num_gpus: int, num_layers: int = 28, prefix_encoder: bool = False) -> dict[str, Place]:
    """Spread the layers evenly over GPUs; word embedding, final norm and output layer are on the first.

    As in the original, embedding and output layer count as a layer each (30 units at 28 layers). Each GPU holds one
    run of layers, so that a token crosses each border between GPUs once.

    Args:
        num_gpus: 1 and up.
        num_layers: of the model.
        prefix_encoder: whether the model has a P-Tuning prefix; it lies on the first GPU.

    Raises:
        ValueError: no GPU, or more GPUs than layers.

    Source: the original's function of this name, which knew 28 layers and no prefix.
    """
    if not 1 <= num_gpus <= num_layers:
        raise ValueError(f"num_gpus must be from 1 to the model's {num_layers} layers, got {num_gpus}")
    device_map: dict[str, Place] = {EMBEDDING: 0, FINAL_NORM: 0, OUTPUT: 0}
    if prefix_encoder:
        device_map[PREFIX_ENCODER] = 0
    for layer in range(num_layers):
        device_map[f"transformer.layers.{layer}"] = (layer + 2) * num_gpus // (num_layers + 2)
    return device_map


def read_device_map(file: Path) -> dict[str, Place]:
    """Return the device map in a JSON file: an object from parts (`transformer.layers.0`) to places.

    Raises:
        LoadError: not such a file, or a place that there is not.
    """
    device_map = read_json(file)
    for part, place in device_map.items():
        if isinstance(place, bool) or not isinstance(place, int | str):
            raise LoadError(
                f'{file}: {part!r:.80} must be on a GPU\'s number, "cpu" or "disk", got {json.dumps(place)}'
            )
        if place != "disk":
            try:
                torch_device(place)
            except (RuntimeError, ValueError, OverflowError) as error:
                raise LoadError(
                    f"{file}: {part!r:.80} must be on a GPU's number, cpu or disk, got {place!r:.80}"
                ) from error
    return device_map


def gpu_count(places: Iterable[Place]) -> int:
    """Return how many NVIDIA GPUs, counted from the first, some places need."""
    devices = [torch_device(place) for place in places if place != "disk"]
    return max([(device.index or 0) + 1 for device in devices if device.type == "cuda"], default=0)


def plan_device_map(model: nn.Module, max_memory: Mapping[Place, int] | None = None) -> dict[str, Place]:
    """Return a device map that fits a budget: GPUs are filled first, then main memory, and the rest stays on disk.

    Args:
        model: a `ChatGLMForConditionalGeneration` whose weights have the shapes and dtypes to plan for; they
            may be on the `meta` device.
        max_memory: bytes for each place. None: what is free on each now, and GPUs get equal shares.
    """
    if max_memory is None:
        no_split = model._no_split_modules
        free = get_max_memory()  # which does not know a container's limit
        free["cpu"] = min(free["cpu"], available_bytes(torch.device("cpu")))
        max_memory = get_balanced_memory(model, free, no_split_module_classes=no_split)
    device_map = dict(infer_auto_device_map(model, dict(max_memory), no_split_module_classes=model._no_split_modules))
    return spell_out(device_map, model.config)


def spell_out(device_map: Mapping[str, Place], config: ChatGLMConfig) -> dict[str, Place]:
    """Return a map that names each part of a model, also those that the given one puts together.

    The prefix encoder is kept where the model computes first: it is not called layer by layer, so that its weights
    cannot be brought there in time.

    Raises:
        ValueError: the map names what is not a part of the model, or only a part of a layer.
    """
    parts = auto_configure_device_map(1, config.num_layers, config.pre_seq_len is not None)
    wholes = {"", "transformer", "transformer.layers", PREFIX_ENCODER, *parts}
    if unknown := sorted(set(device_map) - wholes):
        raise ValueError(
            f"a device map names {EMBEDDING}, transformer.layers.0 to {config.num_layers - 1}, {FINAL_NORM}, {OUTPUT} "
            f"or parts around them, got {unknown[0]}"
        )
    spelled = {part: place for part in parts if (place := find_place(part, device_map)) is not None}
    if config.pre_seq_len is not None and spelled.get(PREFIX_ENCODER, "disk") in OFFLOADED:
        spelled[PREFIX_ENCODER] = main_place(spelled.values())
    return spelled


def main_place(places: Iterable[Place]) -> Place:
    """Return where a model in these places computes first, and with what main memory and disk only keep."""
    return next((place for place in places if place not in OFFLOADED), "cpu")


def torch_device(place: Place) -> torch.device:
    """Return PyTorch's device for a place in memory."""
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def find_place(name: str, device_map: Mapping[str, Place]) -> Place | None:
    """Return where a map puts a part or a weight, by its own name or that of a part around it; None for nowhere."""
    names = name.split(".")
    wholes = (".".join(names[:end]) for end in range(len(names), -1, -1))
    return next((device_map[whole] for whole in wholes if whole in device_map), None)


# Weights


class OffloadedWeights(Mapping[str, Tensor]):
    """The weights of a checkpoint, of which those of one module at a time are kept in memory.

    Asking for a weight of another module gives the memory of the last module's weights back to the system.
    """

    def __init__(self, weights: CheckpointWeights) -> None:
        self.weights = weights
        self.in_use: list[Tensor] = []
        self.module = ""

    def __getitem__(self, name: str) -> Tensor:
        tensor, module = self.weights[name], name.rpartition(".")[0]
        if module != self.module:
            release(self.in_use)
            self.module, self.in_use = module, []
        self.in_use.append(tensor)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def empty_model(
    config: ChatGLMConfig, weights: CheckpointWeights, dtype: torch.dtype
) -> ChatGLMForConditionalGeneration:
    """Return a model with the shapes and dtypes that it will have, on the device `meta`: without weights."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    for names in [*find_tied_parameters(model), [f"{EMBEDDING}.weight_scale", f"{OUTPUT}.weight_scale"]]:
        weights.alias(names)
    model.to(dtype).eval().requires_grad_(False)
    for name, module in model.named_modules():  # these compute in the given format, and stay in the stored one
        if isinstance(module, StoredEmbedding | OutputLinear) and f"{name}.weight" in weights:
            module.weight = nn.Parameter(weights[f"{name}.weight"].to("meta"), requires_grad=False)
    model.tie_weights()
    return model


def check_weights(folder: Path, model: nn.Module, weights: CheckpointWeights) -> None:
    """Refuse weights that are missing or have other shapes than the model's."""
    state = model.state_dict()
    missing = [name for name in state if name not in weights]
    shapes = [(name, weights[name].shape, tensor.shape) for name, tensor in state.items() if name in weights]
    mismatched = [report for report in shapes if report[1] != report[2]]
    unexpected = [name for name in weights if name not in state and not name.endswith("rotary_emb.inv_freq")]
    report = {"missing_keys": missing, "mismatched_keys": mismatched, "unexpected_keys": unexpected}
    check_loaded(folder, report, model.config.num_layers)


def load_dispatched(
    folder: Path,
    config: ChatGLMConfig,
    dtype: torch.dtype,
    device_map: Mapping[str, Place] | None = None,
    max_memory: Mapping[Place, int] | None = None,
) -> ChatGLMForConditionalGeneration:
    """Load a checkpoint's weights straight to where a device map puts them, ready to chat.

    Args:
        folder: of the checkpoint.
        config: of the model, with a P-Tuning prefix if it shall have one.
        dtype: to compute in. Weights on disk are converted each time they are used if they are stored in another.
        device_map: where parts lie; None: as `plan_device_map` says.
        max_memory: see `plan_device_map`.

    Raises:
        LoadError: weights are missing, have other shapes, or shall stay on disk in files that have to be read whole.
        ValueError: a map that does not name every part.
    """
    weights = CheckpointWeights(folder)
    model = empty_model(config, weights, dtype)
    check_weights(folder, model, weights)
    device_map = plan_device_map(model, max_memory) if device_map is None else spell_out(device_map, config)
    check_device_map(model, device_map)
    if "disk" in device_map.values() and not weights.all_mapped:
        raise LoadError(f"{folder}: PyTorch before 1.6 wrote these files, whose parts cannot be read alone from disk")
    main = main_place(device_map.values())
    if config.pre_seq_len is not None:  # random, if neither this checkpoint nor a P-Tuning checkpoint has it
        encoder = model.transformer.prefix_encoder.to_empty(device=main).requires_grad_(True)
        encoder.apply(model._init_weights)
    in_memory: dict[str, Tensor] = {}  # what main memory keeps for a GPU
    loaded: dict[tuple[int, Place], Tensor] = {}  # tied weights are one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        place, is_weight = find_place(name, device_map), isinstance(tensor, nn.Parameter)
        if name not in weights or (place == "disk" and is_weight):
            continue
        place, stored = main if place == "disk" else place, weights[name]
        if (stored.data_ptr(), place) not in loaded:
            loaded[stored.data_ptr(), place] = stored.to(tensor.dtype).to(torch_device(place))
        value = loaded[stored.data_ptr(), place]
        set_module_tensor_to_device(model, name, value.device, value=value)
        if place == "cpu":
            in_memory[name] = value
        if value is not stored:  # else it stays in its file's pages
            release([stored])
    output_place = find_place(f"{OUTPUT}.weight", device_map)
    if config.tie_word_embeddings and output_place == find_place(f"{EMBEDDING}.weight", device_map):
        model.tie_weights()
    if output_place == "disk" and isinstance(model.lm_head, OutputLinear):
        model.lm_head.exact = True  # no second copy in memory
    return dispatch(model, device_map, ChainMap(in_memory, OffloadedWeights(weights)))


def dispatch(
    model: ChatGLMForConditionalGeneration,
    device_map: Mapping[str, Place],
    offloaded: Mapping[str, Tensor] | None = None,
) -> ChatGLMForConditionalGeneration:
    """Have accelerate move activations, and the weights that are not on a GPU, while a model runs; return the model.

    Args:
        model: its weights lie where the map says, or on the CPU.
        device_map: see above.
        offloaded: weights by name that are in main memory or on disk. None: take those in main memory from the model.

    Raises:
        ValueError: parts shall be on disk, and `offloaded` does not have them.
    """
    if offloaded is None and "disk" in device_map.values():
        raise ValueError("weights that are quantised while loading are in no file, so that none can stay on disk")
    return dispatch_model(
        model,
        dict(device_map),
        main_device=main_place(device_map.values()),
        state_dict=offloaded,
        offload_index={},  # "disk" is where `offloaded` reads from, not a folder that accelerate writes
        skip_keys=model._skip_keys_device_placement,
    )
