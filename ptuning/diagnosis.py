"""Where a training step became NaN or infinite: the first weight, layer output or gradient, found by a second run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chatglm import ChatGLMForConditionalGeneration


def is_finite(tensor: Tensor | None) -> bool:
    """Return whether all numbers of a tensor are finite; integers are, and so is no tensor."""
    return tensor is None or not tensor.is_floating_point() or bool(tensor.detach().isfinite().all())


def broken_gradients(model: nn.Module) -> list[str]:
    """Return the names of the trained parameters whose gradient is not finite."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    if not gradients or torch.stack([gradient.sum().float().cpu() for gradient in gradients.values()]).isfinite().all():
        return []  # one look at a device for all of them; a sum may overflow, so what looks broken is looked at again
    return [name for name, gradient in gradients.items() if not is_finite(gradient)]


def find_not_finite(model: ChatGLMForConditionalGeneration, inputs: dict[str, Any]) -> str:
    """Run a step again, forward and backward, and say what is the first that is not finite in it.

    Args:
        model: its gradients are added to.
        inputs: of the step, on the model's device.

    Returns:
        The name of a weight, of a layer's output, or of the output that a gradient was lost behind.
    """
    for name, weight in model.named_parameters():
        if not is_finite(weight):
            return f"the weight {name} is not finite"
    outputs: list[str] = []
    gradients: list[str] = []

    def watch(name: str):
        def look(module: nn.Module, arguments: tuple, output: Tensor | tuple) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not is_finite(hidden):
                outputs.append(name)
            elif hidden.requires_grad:
                hidden.register_hook(lambda gradient: None if is_finite(gradient) else gradients.append(name))

        return look

    transformer = model.transformer
    layers = {f"layer {number}": layer for number, layer in enumerate(transformer.layers)}
    watched = {
        "the word embedding": transformer.word_embeddings,
        **layers,
        "the final norm": transformer.final_layernorm,
    }
    hooks = [
        module.register_forward_hook(watch(name)) for name, module in (watched | {"the logits": model.lm_head}).items()
    ]
    try:
        loss = model(**inputs, use_cache=False).loss
        if outputs:
            return f"the output of {outputs[0]} is the first that is not finite"
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    if gradients:
        return f"the gradient at the output of {gradients[0]} is the first that is not finite"
    lost = broken_gradients(model)
    return (
        f"the gradient of {lost[-1]} is not finite" if lost else "all outputs and gradients of a second run are finite"
    )
