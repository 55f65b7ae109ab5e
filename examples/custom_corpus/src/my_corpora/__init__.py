"""A corpus reader for merc, as another project would write it."""

from my_corpora.emorynlp import read_emorynlp

__all__ = ["read_emorynlp"]
