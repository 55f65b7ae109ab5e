"""Weights of networks: where installed packages keep them, and the digest that tells them apart."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import nn


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of a module's present weights, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packaged(package: str, name: str) -> Path | None:
    """The path of a file in an installed package, which is not imported: its own requirements may be missing.

    Args:
        package: Its import name.
        name: The file, relative to the folder of the package; it need not exist.

    Returns:
        The path, or ``None`` if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    folders = None if spec is None else spec.submodule_search_locations
    return Path(folders[0], name) if folders else None
