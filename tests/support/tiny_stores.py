"""Small feature stores, and what is in their folders."""

import torch

from merc.conversation import UtteranceKey
from merc.store import FeatureStore, StoreWriter
from merc.store.lock import LOCK


def keys_of(count, dialogue="0"):
    return [UtteranceKey("train", dialogue, str(i)) for i in range(count)]


def write(path, count=6, dim=4, **options):
    keys = keys_of(count)
    features = torch.arange(count * dim, dtype=torch.float32).view(count, dim)
    return FeatureStore.write(path, keys, features, **options), keys, features


def write_in_shards(path, count=6, dim=4, shard_rows=2):
    features = torch.arange(count * dim, dtype=torch.float32).view(count, dim)
    with StoreWriter(path, shard_rows=shard_rows) as writer:
        writer.add(keys_of(count), features)
    return FeatureStore(path), keys_of(count), features


def rows_of(lengths, dim=3, dtype=torch.float32):
    """For each utterance as many rows as its length; no two rows are equal."""
    count = sum(lengths) * dim
    return list((torch.arange(count) % 251).to(dtype).view(-1, dim).split(list(lengths)))


def content(path):
    """All files but the lock, which says who wrote last."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != LOCK}
