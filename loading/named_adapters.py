"""Several adapters for one base, by name, one at a time in the model's modules.

peft can keep several adapters in its layers and switch them off, but a layer that is switched off is no plain layer:
the fused decoding of CPU and GPU would leave it to the ordinary pass, which rounds differently. So whole modules are
exchanged here. With an adapter, the model is made of the modules that `load_adapter` alone would have put there;
without, of its own. Answers are the same to the last bit, and base weights lie in memory once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from chatglm import ChatGLMForConditionalGeneration

from .adapters import has_adapter, load_adapter
from .checkpoint import LoadError

PREFIX_ENCODER = "transformer.prefix_encoder"


class NamedAdapters:
    """A base model's adapters; not for use by several threads.

    Args:
        model: without an adapter; changed in place.
        folders: of prefixes or LoRA adapters, by name.

    Attributes:
        active: name of the adapter that is in the model, None for none.

    Raises:
        LoadError: the model has an adapter already, or one of the folders cannot be loaded.
    """

    def __init__(self, model: ChatGLMForConditionalGeneration, folders: Mapping[str, Path]) -> None:
        self.model, self.active = model, None
        self.modules: dict[str | None, dict[str, nn.Module]] = {None: {}}  # that differ from the base's, by path
        self.prefix_lengths: dict[str | None, int | None] = {None: None}
        if folders and has_adapter(model):
            raise LoadError(
                f"--adapter needs a base without an adapter, and {model.config.name_or_path} has one: leave out "
                "--ptuning-checkpoint, or the checkpoint's own prefix, and give it as one more --adapter"
            )
        self.base = dict(model.named_modules()) if folders else {}
        for name, folder in folders.items():
            load_adapter(model, folder)
            self.modules[name], self.prefix_lengths[name] = self._exchanged(), model.config.pre_seq_len
            self.active = name
            self.use(None)
            vars(model).pop("peft_config", None)  # peft would warn of a second adapter in the model

    @property
    def names(self) -> list[str]:
        """Names of the adapters."""
        return [name for name in self.modules if name is not None]

    def use(self, name: str | None) -> None:
        """Let the model compute with the adapter of this name from now on, or as its base does (None)."""
        if name == self.active:
            return
        for path in self.modules[self.active]:
            self._place(path, self.base.get(path))
        for path, module in self.modules[name].items():
            self._place(path, module)
        self.model.config.pre_seq_len, self.active = self.prefix_lengths[name], name

    def _exchanged(self) -> dict[str, nn.Module]:
        """Return the outermost modules that are not the base's, by path."""
        found: dict[str, nn.Module] = {}
        for path, module in self.base.items():  # a module comes before its parts
            if not any(path.startswith(f"{outer}.") for outer in found):
                now = self.model.get_submodule(path)
                found |= {} if now is module else {path: now}
        encoder = getattr(self.model.transformer, "prefix_encoder", None)
        return found | ({} if encoder is None else {PREFIX_ENCODER: encoder})

    def _place(self, path: str, module: nn.Module | None) -> None:
        parent, _, child = path.rpartition(".")
        if module is None:
            delattr(self.model.get_submodule(parent), child)
        else:
            setattr(self.model.get_submodule(parent), child, module)
