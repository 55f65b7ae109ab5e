"""Which version of a layer runs: the hand-written kernel, or the layer itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]
"""Parameters of a layer, or their gradients, by name."""


class Kernel(NamedTuple):
    """Forward and backward pass of a layer by hand.

    Attributes:
        forward: Takes the parameters by name and what the layer takes. Returns what the layer returns, and
            intermediate results that the backward pass needs.
        backward: Takes the gradient of the result, these intermediate results, and what the forward pass took. Returns
            the gradients of the hidden states and of the parameters.
    """

    forward: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    backward: Callable[..., tuple[Tensor, Tensors]]


def hand_written(*tensors: Tensor) -> bool:
    """Whether a hand-written kernel may compute with these tensors.

    It may on a CPU, in eager mode, in float32 or float64. On another device, under ``torch.compile`` or autocast and
    in half precision the plain version runs.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) for x in tensors)
    )


def run(layer: nn.Module, kernel: Kernel, hidden: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    """What ``layer(hidden, *rest)`` returns, from the kernel where it may run.

    Second derivatives (``create_graph=True``) are always those of the layer.

    Args:
        layer: Defines the result.
        kernel: Computes the same.
        hidden: Differentiable input.
        rest: Other inputs. If one of them needs a gradient, the layer itself runs.
    """
    parameters = dict(layer.named_parameters())
    constant = not any(isinstance(x, Tensor) and x.requires_grad for x in rest)
    if constant and hand_written(hidden, *parameters.values()):
        out: Tensor = _ByHand.apply(layer, kernel, rest, tuple(parameters), hidden, *parameters.values())
    else:
        out = layer(hidden, *rest)
    return out


class _ByHand(torch.autograd.Function):
    """A kernel, whose gradients are those of the layer if they must be differentiable themselves."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - untyped in PyTorch
        layer: nn.Module,
        kernel: Kernel,
        rest: tuple[Any, ...],
        names: tuple[str, ...],
        hidden: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        out, saved = kernel.forward(dict(zip(names, parameters, strict=True)), hidden, *rest)
        ctx.layer, ctx.kernel, ctx.rest, ctx.names = layer, kernel, rest, names
        ctx.save_for_backward(hidden, *parameters, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - untyped in PyTorch
        hidden, *others = ctx.saved_tensors
        parameters, saved = others[: len(ctx.names)], others[len(ctx.names) :]
        if torch.is_grad_enabled():  # only with create_graph=True
            found = _twice_differentiable(ctx, gradient, [hidden, *parameters])
        else:
            named = dict(zip(ctx.names, parameters, strict=True))
            to_hidden, to_parameters = ctx.kernel.backward(gradient, saved, named, hidden, *ctx.rest)
            found = [to_hidden, *(to_parameters[name] for name in ctx.names)]
        return (*(None,) * 4, *found)


def _twice_differentiable(ctx: Any, gradient: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:  # noqa: ANN401
    # As views, or the gradient of one input would count again in that of an input which it was made from.
    inputs = [x.view_as(x) for x in inputs]
    out = functional_call(ctx.layer, dict(zip(ctx.names, inputs[1:], strict=True)), (inputs[0], *ctx.rest))
    needed = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(out, needed, gradient, create_graph=True))
    return [next(found) if x.requires_grad else None for x in inputs]
