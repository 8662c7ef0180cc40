"""A CUDA device whose tensors lie in main memory: counts when a program would wait for the GPU.

    with EmulatedDevice() as device:
        model = device.move(model)          # its parameters say that they are on cuda:0
        ...
    device.waits                            # what waited, in order

An operation of such tensors runs on the memory behind them. What waits is what does on a GPU: a copy from memory that
is not pinned or that does not say `non_blocking`, any copy back, and all whose result Python or a shape needs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("cuda", 0)
FACTORIES = {torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn, torch.randint}
DATA_DEPENDENT = ("aten::nonzero", "aten::masked_select", "aten::_local_scalar_dense", "aten::_unique2", "aten::equal")


class EmulatedTensor(torch.Tensor):
    """A tensor that says it is on cuda:0; `inner` holds its numbers in main memory."""

    device_of: EmulatedDevice | None = None  # the one that counts

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> EmulatedTensor:
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **shape)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        keywords, device = dict(keywords or {}), cls.device_of
        if function is not torch.ops.aten.scaled_dot_product_attention.default:  # decomposed by what is on the device
            parts = function.decompose(*arguments, **keywords)  # in inference mode that is left to subclasses
            if parts is not NotImplemented:
                return parts
        name, target = function._schema.name, keywords.get("device")
        if (
            name in DATA_DEPENDENT
            or name == "aten::index"
            and any(index is not None and index.dtype == torch.bool for index in arguments[1])
        ):
            device.wait(name)
        stays = target is None or torch.device(target).type == "cuda"
        if name == "aten::copy_" and not all(isinstance(argument, cls) for argument in arguments[:2]):
            device.copy(name, arguments[1], arguments[2] if len(arguments) > 2 else keywords.get("non_blocking"))
        if name == "aten::_to_copy" and not stays:
            device.wait(name)
        if target is not None:
            keywords["device"] = "cpu"
        result = function(
            *tree_map_only(cls, lambda x: x.inner, arguments), **tree_map_only(cls, lambda x: x.inner, keywords)
        )
        if function._schema.is_mutable and name.endswith("_"):
            return arguments[0]
        return tree_map_only(torch.Tensor, cls, result) if stays else result


class EmulatedDevice(TorchFunctionMode):
    """The device; while it is entered, factories make its tensors, and waits are counted.

    Attributes:
        waits: a name for each time that the program waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.pinned: set[int] = set()  # addresses

    def __enter__(self) -> EmulatedDevice:
        torch._C._ensureCUDADeviceGuardSet()
        EmulatedTensor.device_of = self
        return super().__enter__()

    def wait(self, name: str) -> None:
        """Count a wait."""
        self.waits.append(name.removeprefix("aten::"))

    def copy(self, name: str, source: torch.Tensor, non_blocking: bool) -> None:
        """Count a copy between device and main memory if it waits."""
        on_device = isinstance(source, EmulatedTensor)
        if on_device or not (non_blocking and source.data_ptr() in self.pinned):
            self.wait(f"{name} {tuple(source.shape)}")

    def move(self, model: nn.Module) -> nn.Module:
        """Let a model's parameters and buffers be on the device; in place."""
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update(
                    {name: EmulatedTensor(tensor.detach()) for name, tensor in tensors.items() if tensor is not None}
                )
        return model

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        name, first = getattr(function, "__name__", ""), arguments[0] if arguments else None
        wanted = keywords.get("device")
        to_device = wanted is not None and torch.device(wanted).type == "cuda"
        if isinstance(first, EmulatedTensor):
            if name in ("tolist", "numpy"):
                self.wait(name)
                return getattr(first.inner, name)()
            if name == "data_ptr":
                return first.inner.data_ptr()
        elif function in FACTORIES and to_device:
            return EmulatedTensor(function(*arguments, **(keywords | {"device": "cpu"})))
        elif function in (torch.tensor, torch.as_tensor) and to_device:
            self.wait(name)
            return EmulatedTensor(function(*arguments, **(keywords | {"device": "cpu"})))
        elif name == "pin_memory":
            pinned = first.clone()
            self.pinned.add(pinned.data_ptr())
            return pinned
        elif name == "to" and isinstance(first, torch.Tensor) and _is_cuda([*arguments[1:2], wanted]):
            self.copy(name, first, keywords.get("non_blocking", False))
            dtypes = [value for value in (*arguments[1:], *keywords.values()) if isinstance(value, torch.dtype)]
            return EmulatedTensor(first.to(*dtypes, copy=True))
        return function(*arguments, **keywords)


def _is_cuda(devices: list) -> bool:
    return any(isinstance(device, str | torch.device) and torch.device(device).type == "cuda" for device in devices)
