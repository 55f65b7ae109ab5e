"""Multimodal emotion recognition in conversation."""

from importlib.metadata import version

__version__ = version("merc")
__all__ = ["__version__"]
