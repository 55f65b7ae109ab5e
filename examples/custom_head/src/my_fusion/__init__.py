"""A fusion head for merc, as another project would write it."""

from my_fusion.text_first import TextFirst

__all__ = ["TextFirst"]
