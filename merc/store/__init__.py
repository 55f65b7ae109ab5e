"""Feature stores: what one stage leaves for the next, written shard by shard and read memory-mapped."""

from merc.store.identity import difference, identity
from merc.store.kinds import SEQUENCES, Kind, StoreError
from merc.store.manifest import MANIFEST
from merc.store.reader import FeatureStore
from merc.store.writer import Sequences, StoreWriter

__all__ = [
    "MANIFEST",
    "SEQUENCES",
    "FeatureStore",
    "Kind",
    "Sequences",
    "StoreError",
    "StoreWriter",
    "difference",
    "identity",
]
