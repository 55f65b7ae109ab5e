import json
import os
import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import UtteranceKey
from merc.store import MANIFEST, FeatureStore, StoreError, StoreWriter
from merc.store.manifest import manifest_bytes
from support.tiny_stores import keys_of, rows_of, write, write_in_shards

NAME = st.text(max_size=5)
KEYS = st.lists(st.builds(UtteranceKey, NAME, NAME, NAME), unique=True, max_size=12)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


@given(
    keys=KEYS,
    absent=KEYS,
    dim=st.integers(1, 5),
    dtype=DTYPES,
    shard_rows=st.integers(1, 5),
    reason=st.text(),
    provenance=st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)),
    data=st.data(),
)
def test_round_trip(tmp_path_factory, keys, absent, dim, dtype, shard_rows, reason, provenance, data):
    path = tmp_path_factory.mktemp("store")
    absent = [key for key in absent if key not in keys]
    features = torch.randn(len(keys), dim).to(dtype)
    cut = data.draw(st.integers(0, len(keys)))
    with StoreWriter(path, kind="hidden", provenance=provenance, shard_rows=shard_rows) as writer:
        writer.add(keys[:cut], features[:cut])
        for key in absent:
            writer.skip(key, reason)
        writer.add(keys[cut:], features[cut:])
    store = FeatureStore(path)
    assert (store.kind, store.dim, store.dtype) == ("hidden", dim, dtype)
    assert store.keys == keys
    assert store.provenance == provenance
    assert store.missing == dict.fromkeys(absent, reason)

    asked = data.draw(st.lists(st.sampled_from([*keys, *absent]), max_size=15)) if keys or absent else []
    found, present = store.gather(asked)
    slow = [features[keys.index(key)] if key in keys else torch.zeros(dim, dtype=dtype) for key in asked]
    assert found.dtype == dtype
    assert torch.equal(found, torch.stack(slow) if slow else torch.zeros(0, dim, dtype=dtype))
    assert present.tolist() == [key in keys for key in asked]
    assert store.why_missing(asked) == {key: reason for key in asked if key in absent}


def test_keys_may_be_asked_for_in_any_order_and_twice(tmp_path):
    store, keys, features = write_in_shards(tmp_path)
    order = [5, 0, 0, 3, 2]
    found, present = store.gather([keys[i] for i in order])
    assert torch.equal(found, features[order])
    assert present.all()


def test_one_utterance_and_its_absence(tmp_path):
    gone = UtteranceKey("val", "110", "7")
    store, keys, features = write(tmp_path, missing={gone: "no clip"})
    assert torch.equal(store[keys[2]], features[2])
    assert keys[2] in store
    assert gone not in store
    assert len(store) == 6
    with pytest.raises(KeyError, match="has no val/110/7: no clip"):
        store[gone]
    with pytest.raises(KeyError, match="never extracted"):
        store[UtteranceKey("val", "0", "0")]
    assert store.why_missing([keys[0], UtteranceKey("val", "0", "0")]) == {("val", "0", "0"): "not in the store"}


def test_side_by_side_keys_come_memory_mapped_and_without_a_copy(tmp_path):
    store, keys, _ = write_in_shards(tmp_path, shard_rows=3)
    found, _ = store.gather(keys[4:6])
    again, _ = store.gather(keys[3:6])
    assert found.data_ptr() == again[1].data_ptr(), "both must be views of one mapping"
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            spans = [re.match(r"(\w+)-(\w+)", line).groups() for line in maps if str(tmp_path) in line]
        assert any(int(low, 16) <= found.data_ptr() < int(high, 16) for low, high in spans), "not memory-mapped"
    copy, _ = store.gather(keys[::-1])
    copy += 1  # a copy may be written to; the store must not notice
    assert torch.equal(store.gather(keys[4:6])[0], found)
    assert torch.equal(found[0], torch.arange(16.0, 20.0))


def test_a_store_of_which_nothing_could_be_read_says_why(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.skip(keys_of(1)[0], "no audio")
    with pytest.raises(StoreError, match="holds nothing: 1 utterances are missing, the first because: no audio"):
        FeatureStore(tmp_path).require(dim=1024)


def test_an_empty_store_knows_its_width(tmp_path):
    store = FeatureStore.write(tmp_path, [], torch.zeros(0, 8), missing={UtteranceKey("val", "0", "0"): "no clip"})
    found, present = store.gather([UtteranceKey("val", "0", "0")])
    assert found.shape == (1, 8)
    assert not present.any()
    assert store.gather([])[0].shape == (0, 8)


@given(
    lengths=st.lists(st.integers(0, 6), max_size=12),
    dim=st.integers(1, 4),
    kind_dtype=st.sampled_from([("faces", torch.float32), ("crops", torch.uint8), ("sound", torch.float16)]),
    shard_rows=st.integers(1, 5),
    shard_bytes=st.integers(1, 100),
    data=st.data(),
)
def test_round_trip_of_sequences(tmp_path_factory, lengths, dim, kind_dtype, shard_rows, shard_bytes, data):
    path = tmp_path_factory.mktemp("store")
    kind, dtype = kind_dtype
    keys, rows = keys_of(len(lengths)), rows_of(lengths, dim, dtype)
    cut = data.draw(st.integers(0, len(keys)))
    with StoreWriter(path, kind=kind, shard_rows=shard_rows, shard_bytes=shard_bytes) as writer:
        for part in (slice(cut), slice(cut, None)):
            writer.add(keys[part], torch.cat([torch.zeros(0, dim, dtype=dtype), *rows[part]]), lengths[part])
            held = writer.pending
            assert held == 0 or (held < shard_rows and writer.pending_bytes < shard_bytes)
    store = FeatureStore(path)
    assert (store.kind, store.dtype, store.keys, store.lengths.tolist()) == (kind, dtype, keys, lengths)
    for key, expected in data.draw(st.permutations(list(zip(keys, rows, strict=True)))):
        found = store.sequence(key)
        assert found.dtype == dtype and torch.equal(found, expected)
    for shard in store.manifest["shards"]:
        assert shard["rows"] * dim * dtype.itemsize < shard_bytes + 6 * dim * dtype.itemsize


def test_a_sequence_is_a_view_of_the_mapped_file(tmp_path):
    """A run over the crops of a corpus reads what it needs, and holds nothing."""
    store = FeatureStore.write(tmp_path, keys_of(2), torch.cat(rows_of([3, 4])), kind="sound", lengths=[3, 4])
    first, second = map(store.sequence, store.keys)
    assert second.data_ptr() == first.data_ptr() + first.nbytes
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            spans = [re.match(r"(\w+)-(\w+)", line).groups() for line in maps if str(tmp_path) in line]
        assert any(int(low, 16) <= second.data_ptr() < int(high, 16) for low, high in spans), "not memory-mapped"


def test_a_store_of_vectors_is_read_as_before_and_as_sequences_of_one(tmp_path):
    store, keys, features = write(tmp_path)
    assert store.manifest["version"] == 1 and "lengths" not in store.manifest
    assert torch.equal(store.sequence(keys[2]), features[2:3])
    assert store.lengths.tolist() == [1] * 6
    with pytest.raises(KeyError, match="train/9/0: it was never extracted"):
        store.sequence(UtteranceKey("train", "9", "0"))


def test_sequences_are_not_read_as_vectors(tmp_path):
    store = FeatureStore.write(tmp_path, keys_of(2), torch.ones(2, 3), kind="faces", lengths=[1, 1])
    for read in (lambda: store.gather(keys_of(1)), lambda: store[keys_of(1)[0]]):
        with pytest.raises(StoreError, match=r"holds faces, a sequence of rows per utterance.*sequence\(key\)"):
            read()


def test_an_empty_store_of_sequences(tmp_path):
    gone = UtteranceKey("val", "0", "0")
    store = FeatureStore.write(tmp_path, [], torch.zeros(0, 7), kind="faces", lengths=[], missing={gone: "no video"})
    assert (len(store), store.dim, store.lengths.shape) == (0, 7, (0,))
    with pytest.raises(KeyError, match="val/0/0: no video"):
        store.sequence(gone)


def test_being_read_as_something_else_is_refused_and_names_the_file(tmp_path):
    store, _, _ = write(tmp_path / "text", kind="logits", provenance={"classes": ["joy", "fear"]})
    store.require(kind="logits", dim=4, classes=["joy", "fear"])
    where = re.escape(str(tmp_path / "text"))
    with pytest.raises(StoreError, match=f"{where} has vectors of width 4, expected 1024"):
        store.require(dim=1024)
    with pytest.raises(StoreError, match=f"{where} holds logits, expected features"):
        store.require(kind="features")
    with pytest.raises(StoreError, match=rf"{where} has the classes \['joy', 'fear'\], expected \['fear', 'joy'\]"):
        store.require(classes=["fear", "joy"])


def test_flipped_bits_of_a_shard_are_noticed(tmp_path):
    write(tmp_path, count=50, dim=8)
    [file] = tmp_path.glob("*.safetensors")
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    chosen = random.Random(0)
    for place in [*range(8), *chosen.sample(range(8, header), 60), *chosen.sample(range(header, len(data)), 60)]:
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << chosen.randrange(8)]) + data[place + 1 :])
        with pytest.raises(StoreError, match=r"does not match its checksum.*Write the store again"):
            FeatureStore(tmp_path)


def test_a_truncated_or_lost_shard_is_noticed_even_without_verifying(tmp_path):
    write(tmp_path, count=50)
    [file] = tmp_path.glob("*.safetensors")
    data = file.read_bytes()
    for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
        file.write_bytes(changed)
        with pytest.raises(StoreError, match=rf"{file.name} has {len(changed)} bytes, expected {len(data)}"):
            FeatureStore(tmp_path, verify=False)
    file.unlink()
    with pytest.raises(StoreError, match=f"lacks its shard {file.name}"):
        FeatureStore(tmp_path, verify=False)


def reseal(path, **changes):
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["checksum"]
    (path / MANIFEST).write_bytes(manifest_bytes(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "merc.Corpus"}, "is not the manifest of a feature store: expected format 'merc.FeatureStore'"),
        ({"version": 3}, "has version 3, this merc reads 1 and 2: upgrade merc"),
        ({"keys": [["train", "0", "0"]] * 6}, "holds 6 rows for 1 distinct keys of 6"),
        ({"keys": [["train", "0", "0"]]}, "holds 6 rows for 1 distinct keys of 1"),
        ({"dim": 5}, r"holds \(6, 4\) of torch.float32, the manifest says \(6, 5\)"),
        ({"dtype": "float16"}, r"holds \(6, 4\) of torch.float32, the manifest says \(6, 4\) of torch.float16"),
    ],
)
def test_a_manifest_that_is_whole_but_does_not_fit_is_refused(tmp_path, changes, message):
    write(tmp_path)
    reseal(tmp_path, **changes)
    with pytest.raises(StoreError, match=message):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("lengths", [[3, 2], [1, 4, 1], [2, 3, 0], [0, 5, 0], [1, 1, 1, 2]])
def test_lengths_that_do_not_fit_the_shards_are_refused(tmp_path, lengths):
    """Of two shards, of two rows each, and of one."""
    with StoreWriter(tmp_path, kind="sound", shard_bytes=24) as writer:
        writer.add(keys_of(3), torch.cat(rows_of([2, 2, 1])), [2, 2, 1])
    FeatureStore(tmp_path)
    reseal(tmp_path, lengths=lengths)
    with pytest.raises(StoreError, match="the manifest does not fit its shards"):
        FeatureStore(tmp_path)


def test_a_reader_keeps_its_store_while_it_is_replaced(tmp_path):
    old, keys, features = write(tmp_path)
    new, _, _ = write(tmp_path, count=4, dim=2)
    assert torch.equal(old.gather(keys)[0], features)
    assert torch.equal(old[keys[5]], features[5])
    assert (len(new), new.dim) == (4, 2)
