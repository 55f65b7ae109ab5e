"""A device that is not the CPU, on a machine that has no other: it computes on the CPU and refuses mixed devices.

PyTorch's FakeTensorMode does not do here: without a GPU it cannot walk the backward graph of fake CUDA tensors, and it
knows no values, on which the lengths of conversations depend. The tensors of this mode have values. They say that they
are on ``lazy``, the only device whose backward pass PyTorch runs without its hardware.
"""

from contextlib import nullcontext
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy:0")
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
# CUDA takes a CPU tensor without dimensions in these beside all pointwise ones, and an index of either device.
_SCALARS = {_aten.masked_fill.Tensor, _aten.masked_fill_.Tensor, _aten.fill_.Tensor, _aten.where.self}
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}
# The lengths of a packed sequence stay on the CPU.
_PACKED = {_aten._pack_padded_sequence.default: 1, _aten._pack_padded_sequence_backward.default: None}


class Away(Tensor):
    """A tensor on the other device, with its value on the CPU."""

    value: Tensor

    @staticmethod
    def __new__(cls, value):
        layout = {"strides": value.stride(), "storage_offset": value.storage_offset(), "dtype": value.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, value.shape, device=DEVICE, **layout)

    def __init__(self, value):
        self.value = value

    def tolist(self):
        return self.value.tolist()  # PyTorch refuses it for subclasses

    def __repr__(self, **_):
        return f"Away({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with PretendDevice():
            return func(*args, **(kwargs or {}))


class PretendDevice(TorchDispatchMode):
    """While it is on, ``to("lazy")`` gives tensors that refuse to meet those of the CPU."""

    def __enter__(self):
        autocast = torch.autocast

        def for_device(device_type, *args, **kwargs):
            return nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **kwargs)

        self.patch = mock.patch("torch.autocast", for_device)  # PyTorch has none for this device
        self.patch.start()
        # torch.tensor(..., device="lazy") is made on the CPU and comes here as a copy, as in FakeTensorMode.
        self.lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.lifted)
        self.patch.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        away = any(isinstance(x, Away) for x in tensors)
        if away:
            self.refuse_mixed(func, tensors)
        if (device := kwargs.get("device")) is not None:
            away = torch.device(device).type == DEVICE.type
            kwargs["device"] = "cpu"
        wrappers = {id(x.value): x for x in tensors if isinstance(x, Away)}
        args, kwargs = tree_map(lambda x: x.value if isinstance(x, Away) else x, (args, kwargs))
        out = func(*args, **kwargs)
        if func in _PACKED and _PACKED[func] is not None:
            return (Away(out[0]), *out[1:]) if away else out
        if not away:
            return out

        def wrapped(x):
            if not isinstance(x, Tensor):
                return x
            return wrappers[id(x)] if id(x) in wrappers else Away(x)  # what was changed in place stays what it was

        return tree_map(wrapped, out)

    @staticmethod
    def refuse_mixed(func, tensors):
        here = [x for x in tensors if not isinstance(x, Away)]
        if func in _COPIES | _INDEXING or func in _PACKED:
            return
        if torch.Tag.pointwise in func.tags or func in _SCALARS:
            here = [x for x in here if x.dim()]
        if here:
            raise RuntimeError(f"{func} expects all tensors on one device, got some of the CPU, {here[0].shape}.")


def move(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the other device; other tensors in it stay behind, as with CUDA."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(parameter.detach().to(DEVICE)))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, buffer.to(DEVICE))
    return module
