"""How much of a pretrained network is fine-tuned, and in how much memory."""

from __future__ import annotations

from typing import Any

from torch import nn


def freeze_layers(network: nn.Module, count: int) -> None:
    """Freeze the first layers of a pretrained encoder, with all that comes before them: embeddings, convolutions.

    Args:
        network: A Hugging Face encoder.
        count: Number of transformer layers to freeze; 0 freezes nothing.

    Raises:
        ValueError: The network has no stack of layers, or not so many.
    """
    if not count:
        return
    name, stack = _layers(network)
    if not 0 < count <= len(stack):
        raise ValueError(
            f"{type(network).__name__} has {len(stack)} layers, frozen_layers is {count}: expected 0 to {len(stack)}."
        )
    later = {id(p) for layer in list(stack)[count:] for p in layer.parameters()}
    # wav2vec 2.0 normalises behind its layers, or before them; in both cases this stands before them in the network.
    if getattr(getattr(network, "config", None), "do_stable_layer_norm", False):
        later |= {
            id(p) for p in network.get_submodule(name.rpartition(".")[0]).get_submodule("layer_norm").parameters()
        }
    last = id(list(stack[count - 1].parameters())[-1])
    for parameter in network.parameters():  # in the order of the network
        if id(parameter) not in later:
            parameter.requires_grad_(False)
        if id(parameter) == last:
            return


def checkpoint_gradients(network: nn.Module) -> None:
    """Compute the layers again in the backward pass instead of keeping what they gave: less memory, more time.

    Args:
        network: A Hugging Face encoder.

    Raises:
        ValueError: The network does not support it.
    """
    # The second name is that of older transformers.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable: Any = next((getattr(network, name) for name in names if hasattr(network, name)), None)
    if enable is None or not getattr(network, "supports_gradient_checkpointing", False):
        raise ValueError(
            f"{type(network).__name__} supports no gradient checkpointing: set gradient_checkpointing to false."
        )
    enable({"use_reentrant": False})


def _layers(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of transformer layers: of the lists of modules the one with the most parameters."""
    stacks = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        raise ValueError(f"{type(network).__name__} has no layers to freeze: set frozen_layers to 0.")
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack[1].parameters()))
