import errno
import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merc.store
from merc.conversation import UtteranceKey
from merc.store import MANIFEST, FeatureStore, StoreError, StoreWriter

NAME = st.text(max_size=5)
KEYS = st.lists(st.builds(UtteranceKey, NAME, NAME, NAME), unique=True, max_size=12)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


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
    return {file.name: file.read_bytes() for file in path.iterdir()}


# --- what is written is what is read


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


def test_writing_twice_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a", provenance={"encoder": "minilm", "classes": ["joy"]})
    write(tmp_path / "b", provenance={"encoder": "minilm", "classes": ["joy"]})
    assert content(tmp_path / "a") == content(tmp_path / "b")


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
        with pytest.raises(StoreError, match=r"holds faces, a sequence of rows an utterance.*sequence\(key\)"):
            read()


def test_an_empty_store_of_sequences(tmp_path):
    gone = UtteranceKey("val", "0", "0")
    store = FeatureStore.write(tmp_path, [], torch.zeros(0, 7), kind="faces", lengths=[], missing={gone: "no picture"})
    assert (len(store), store.dim, store.lengths.shape) == (0, 7, (0,))
    with pytest.raises(KeyError, match="val/0/0: no picture"):
        store.sequence(gone)


# --- what must be refused


@pytest.mark.parametrize(
    ("kind", "rows", "lengths", "message"),
    [
        ("faces", torch.zeros(2, 7), None, "of kind faces, which has lengths: got none"),
        ("features", torch.zeros(2, 7), [1, 1], "of kind features, which has one row an utterance: got lengths"),
        ("faces", torch.zeros(3, 7), [1, 1], r"shape \(2, d\) for 2 utterances"),
        ("faces", torch.zeros(2, 7), [2], "and 1 lengths"),
        ("faces", torch.zeros(2, 7), [3, -1], "and 2 lengths"),
        ("faces", torch.zeros(2, 7).long(), [1, 1], "floating-point or uint8.*int64"),
        ("features", torch.zeros(2, 7, dtype=torch.uint8), None, "Expected floating-point features"),
        ("speaker", torch.zeros(2, 4, dtype=torch.uint8), None, "Expected floating-point features"),
        ("sound", torch.tensor([[0.0], [float("nan")], [1.0]]), [2, 1], r"for 1 utterances \(train/0/0\)"),
    ],
)
def test_rows_that_do_not_fit_the_kind_are_refused(tmp_path, kind, rows, lengths, message):
    with StoreWriter(tmp_path, kind=kind) as writer:
        with pytest.raises(StoreError, match=message):
            writer.add(keys_of(2), rows, lengths)
        assert not writer.done


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_their_keys(tmp_path, value):
    features = torch.zeros(3, 4)
    features[1, 2] = value
    with pytest.raises(StoreError, match=r"NaN or infinite features for 1 utterances \(train/0/1\)"):
        FeatureStore.write(tmp_path, keys_of(3), features)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("keys", "features", "message"),
    [
        ([*keys_of(2), keys_of(2)[0]], torch.zeros(3, 4), "was given train/0/0 twice"),
        ([*keys_of(2), keys_of(10)[9]], torch.zeros(3, 4), "was given train/0/9 twice"),
        (keys_of(2), torch.zeros(3, 4), r"shape \(2, d\)"),
        (keys_of(2), torch.zeros(2), r"shape \(2, d\)"),
        (keys_of(2), torch.zeros(2, 4, dtype=torch.long), r"floating-point.*int64"),
        (keys_of(2), torch.zeros(2, 5), "holds vectors of width 4 and type torch.float32, got width 5"),
        (keys_of(2), torch.zeros(2, 4).half(), "holds vectors of width 4 and type torch.float32.*float16"),
        ([UtteranceKey("train", 0, 0)], torch.zeros(1, 4), r"three strings.*\('train', 0, 0\)"),
        ([("train", "0")], torch.zeros(1, 4), "three strings"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_none_is_taken(tmp_path, keys, features, message):
    with StoreWriter(tmp_path) as writer:
        writer.add(keys_of(10)[9:], torch.ones(1, 4))
        with pytest.raises(StoreError, match=message):
            writer.add(keys, features)
    assert FeatureStore(tmp_path).keys == keys_of(10)[9:]


def test_provenance_must_be_plain_json(tmp_path):
    for bad in ({"encoder": object()}, {"loss": float("nan")}):
        with pytest.raises(StoreError, match="plain JSON"):
            StoreWriter(tmp_path, provenance=bad)


def test_nothing_there_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No feature store at .*merc predict"):
        FeatureStore(tmp_path / "text")


# --- damage


def test_every_altered_byte_of_the_manifest_is_noticed(tmp_path):
    write(tmp_path, count=1, missing={UtteranceKey("val", "0", "0"): "naïve"}, provenance={"rate": 0.1, "steps": 10})
    file = tmp_path / MANIFEST
    data = file.read_bytes()
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80, ord(" ") ^ ord("\t")):  # the last makes JSON that means the same
            file.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            with pytest.raises(StoreError, match=MANIFEST):
                FeatureStore(tmp_path)
    file.write_bytes(data)
    FeatureStore(tmp_path)


def test_every_truncation_of_the_manifest_is_noticed(tmp_path):
    write(tmp_path, count=2)
    file = tmp_path / MANIFEST
    data = file.read_bytes()
    for changed in [*(data[:length] for length in range(len(data))), data + b"\n", data.replace(b"\n", b"\r\n")]:
        file.write_bytes(changed)
        with pytest.raises(StoreError, match=MANIFEST):
            FeatureStore(tmp_path)


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
    (path / MANIFEST).write_bytes(merc.store._manifest_bytes(manifest | changes))


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


@pytest.mark.parametrize("lengths", [[3, 2], [1, 4, 1], [2, 3, 0], [0, 5, 0], [5, -1, 1], [1, 1, 1, 2]])
def test_lengths_that_do_not_fit_the_shards_are_refused(tmp_path, lengths):
    """Of two shards, of two rows each, and of one."""
    with StoreWriter(tmp_path, kind="sound", shard_bytes=24) as writer:
        writer.add(keys_of(3), torch.cat(rows_of([2, 2, 1])), [2, 2, 1])
    FeatureStore(tmp_path)
    reseal(tmp_path, lengths=lengths)
    with pytest.raises(StoreError, match="the manifest does not fit its shards"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'"text"', b"\xff", b"[1, 2"])
def test_a_manifest_of_something_else_is_refused(tmp_path, data):
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / MANIFEST))):
        FeatureStore(tmp_path)


# --- a writer that is cut


def test_a_full_disk_leaves_the_old_store_whole(tmp_path, monkeypatch):
    _, keys, features = write(tmp_path)
    before = content(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for target, name in [(merc.store, "save"), (merc.store, "_manifest_bytes"), (os, "fsync")]:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(OSError, match="No space left"):
                FeatureStore.write(tmp_path, keys, features + 1)
        assert before.items() <= content(tmp_path).items(), "the old store must be untouched"
        assert not list(tmp_path.glob(".*.tmp")), "nothing half-written may stay"
        assert torch.equal(FeatureStore(tmp_path).gather(keys)[0], features)
    FeatureStore.write(tmp_path, keys, features + 1)
    assert torch.equal(FeatureStore(tmp_path).gather(keys)[0], features + 1)
    assert len(content(tmp_path)) == 2, "shards of the failed attempts are removed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_added_before_an_interruption_is_kept_for_the_next_run(tmp_path, error):
    keys, features = keys_of(7), torch.randn(7, 4)
    with pytest.raises(error), StoreWriter(tmp_path, provenance={"encoder": "a"}, shard_rows=2) as writer:
        writer.add(keys[:5], features[:5])
        raise error
    with pytest.raises(FileNotFoundError, match="its extraction was cut: run the same command again"):
        FeatureStore(tmp_path)
    with StoreWriter(tmp_path, provenance={"encoder": "a"}, shard_rows=2) as writer:
        assert writer.done == set(keys[:5])
        writer.add(keys[5:], features[5:])
    store = FeatureStore(tmp_path)
    assert store.keys == keys
    assert torch.equal(store.gather(keys)[0], features)


def test_what_a_cut_run_found_missing_is_settled_but_not_what_a_finished_store_lacks(tmp_path):
    def run(keys):
        writer = StoreWriter(tmp_path, kind="faces")
        if keys:
            writer.add(keys, torch.ones(2, 7), [2])
        return writer

    first = run(keys_of(1))
    first.skip(keys_of(2)[1], "broken clip")
    first.flush()
    first.skip(keys_of(3)[2], "not flushed: forgotten")
    cut = run([])
    assert (cut.done, cut.settled) == (set(keys_of(1)), set(keys_of(2)))
    cut.commit()
    assert FeatureStore(tmp_path).missing == {keys_of(2)[1]: "broken clip"}
    again = run([])
    assert again.done == again.settled == set(keys_of(1)), "the clip may have been mended"
    again.add(keys_of(2)[1:], torch.zeros(0, 7), [0])
    again.commit()
    assert FeatureStore(tmp_path).keys == keys_of(2) and not FeatureStore(tmp_path).missing


def test_parts_of_several_writers_make_one_store(tmp_path):
    keys, lengths = keys_of(7), [2, 0, 3, 1, 0, 0, 2]
    rows = rows_of(lengths)
    writers = [StoreWriter(tmp_path, kind="crops", shard_rows=2) for _ in range(3)]
    for place in range(6):
        writers[place % 2].add(keys[place : place + 1], rows[place], lengths[place : place + 1])
    writers[2].skip(keys[6], "one that only found broken clips")
    for writer in writers[::-1]:
        writer.flush()
    writers[0].take_parts()
    writers[0].take_parts()  # nothing is taken twice
    writers[0].commit()
    store = FeatureStore(tmp_path)
    assert sorted(store.keys) == keys[:6] and store.missing == {keys[6]: "one that only found broken clips"}
    for key, expected in zip(keys[:6], rows, strict=False):
        assert torch.equal(store.sequence(key), expected)


def test_a_finished_store_is_taken_over_whole(tmp_path):
    write_in_shards(tmp_path)
    before = content(tmp_path)
    with StoreWriter(tmp_path, shard_rows=2) as writer:
        assert writer.done == set(keys_of(6))
    assert content(tmp_path) == before


@pytest.mark.parametrize("other", [{"provenance": {"encoder": "b"}}, {"kind": "hidden"}, {"resume": False}])
def test_shards_of_another_story_are_not_taken_over(tmp_path, other):
    _, keys, features = write(tmp_path, provenance={"encoder": "a"})
    with StoreWriter(tmp_path, **({"provenance": {"encoder": "a"}} | other)) as writer:
        assert not writer.done
        writer.add(keys[:3], -features[:3])
        assert torch.equal(FeatureStore(tmp_path).gather(keys)[0], features), "old until the commit"
    assert torch.equal(FeatureStore(tmp_path).gather(keys[:3])[0], -features[:3])
    assert len(content(tmp_path)) == 2


def test_damaged_shards_of_a_cut_run_are_written_anew(tmp_path):
    write_in_shards(tmp_path)
    whole = content(tmp_path)
    (tmp_path / MANIFEST).unlink()
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:-3])
    data = bytearray(shards[1].read_bytes())
    data[12] ^= 1
    shards[1].write_bytes(data)
    features = torch.arange(24, dtype=torch.float32).view(6, 4)
    with StoreWriter(tmp_path, shard_rows=2) as writer:
        assert len(writer.done) == 2
        left = [i for i, key in enumerate(keys_of(6)) if key not in writer.done]
        writer.add([keys_of(6)[i] for i in left], features[left])
    assert torch.equal(FeatureStore(tmp_path).gather(keys_of(6))[0], features)
    assert len(content(tmp_path)) == len(whole)


def test_files_of_others_in_the_folder_are_never_removed(tmp_path):
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "config.json", ".env.tmp"):
        (tmp_path / name).write_bytes(b"precious")
    write(tmp_path)
    write(tmp_path, count=3)
    assert sorted(name for name, data in content(tmp_path).items() if data == b"precious") == sorted(
        ["model.safetensors", "model-00001-of-00002.safetensors", "config.json", ".env.tmp"]
    )


def test_a_reader_keeps_its_store_while_it_is_replaced(tmp_path):
    old, keys, features = write(tmp_path)
    new, _, _ = write(tmp_path, count=4, dim=2)
    assert torch.equal(old.gather(keys)[0], features)
    assert torch.equal(old[keys[5]], features[5])
    assert (len(new), new.dim) == (4, 2)


def test_two_writers_at_once_do_not_make_a_broken_store(tmp_path):
    features = torch.randn(6, 4)
    late = StoreWriter(tmp_path, provenance={"encoder": "late"}, shard_rows=2)
    late.add(keys_of(6), features)
    write(tmp_path)
    with pytest.raises(StoreError, match=r"has lost .* let one run at a time"):
        late.commit()
    assert len(FeatureStore(tmp_path)) == 6


def test_the_caller_may_use_its_buffer_again(tmp_path):
    buffer = torch.zeros(2, 4)
    with StoreWriter(tmp_path) as writer:
        for start in (0, 2):
            buffer.fill_(start)
            writer.add(keys_of(4)[start : start + 2], buffer)
    assert FeatureStore(tmp_path).gather(keys_of(4))[0][:, 0].tolist() == [0, 0, 2, 2]


def test_an_utterance_found_after_all_is_not_missing(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.skip(keys_of(2)[0], "broken clip")
        writer.skip(keys_of(2)[1], "broken clip")
        writer.add(keys_of(1), torch.zeros(1, 4))
        writer.skip(keys_of(1)[0], "too late")
    assert FeatureStore(tmp_path).missing == {keys_of(2)[1]: "broken clip"}


WRITER = """
import os, sys, torch
from killing import die_at
from merc.conversation import UtteranceKey
from merc.store import StoreWriter

def write(path):
    keys = [UtteranceKey("train", str(i // 7), str(i % 7)) for i in range(60)]
    features = torch.arange(60 * 16, dtype=torch.float32).view(60, 16)
    with StoreWriter(path, provenance={"encoder": "a"}, shard_rows=4) as writer:
        for start in range(0, 60, 3):
            left = [i for i in range(start, start + 3) if keys[i] not in writer.done]
            if left:
                writer.add([keys[i] for i in left], features[left])

def write_sequences(path):
    with StoreWriter(path, kind="crops", provenance={"encoder": "a"}, shard_bytes=100) as writer:
        for i in range(60):
            key = UtteranceKey("train", str(i // 7), str(i % 7))
            if key in writer.settled:
                continue
            if i % 9 == 8:
                writer.skip(key, "broken")
            else:
                writer.add([key], torch.full((i % 5, 16), i, dtype=torch.uint8), [i % 5])

for line in sys.stdin:
    kind, moment, path = line.strip().split(" ", 2)
    answer, ask = os.pipe()
    child = os.fork()
    if child == 0:
        lines = die_at(int(moment) or None, "merc/store.py", "merc/files.py")
        (write_sequences if kind == "sequences" else write)(path)
        os.write(ask, str(lines()).encode())
        os._exit(0)
    os.close(ask)
    status = os.waitpid(child, 0)[1]
    print(status, os.read(answer, 20).decode() or 0, flush=True)
    os.close(answer)
"""


@pytest.fixture
def writer_process():
    """Writes the store that a line names, or what is left of it, dies at a line if told to; answers status, lines."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork to start many writers quickly")
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


def sixty_vectors(path):
    keys = [UtteranceKey("train", str(i // 7), str(i % 7)) for i in range(60)]
    found, present = FeatureStore(path).gather(keys)
    assert torch.equal(found, torch.arange(60 * 16, dtype=torch.float32).view(60, 16)) and present.all()


def sixty_sequences(path):
    store = FeatureStore(path)
    for i in range(60):
        key = UtteranceKey("train", str(i // 7), str(i % 7))
        if i % 9 == 8:
            assert store.missing[key] == "broken"
        else:
            assert torch.equal(store.sequence(key), torch.full((i % 5, 16), i, dtype=torch.uint8))


@pytest.mark.parametrize(("name", "check"), [("vectors", sixty_vectors), ("sequences", sixty_sequences)])
def test_a_writer_killed_at_any_moment_leaves_a_store_that_is_whole_or_absent(tmp_path, writer_process, name, check):
    def write_until(moment, path):
        writer_process.stdin.write(f"{name} {moment} {path}\n")
        writer_process.stdin.flush()
        return [int(answer) for answer in writer_process.stdout.readline().split()]

    folder = tmp_path / name
    status, lines = write_until(0, folder / "whole")
    assert status == 0
    whole = content(folder / "whole")
    check(folder / "whole")

    moments = random.Random(0)
    targets = [folder / "killed0"]
    killed = absent = 0
    for attempt in range(40):
        if (targets[-1] / MANIFEST).exists():
            targets.append(folder / f"killed{attempt}")
        status, _ = write_until(moments.randint(1, lines), targets[-1])
        killed += status == signal.SIGKILL
        if (targets[-1] / MANIFEST).exists():
            check(targets[-1])
        else:
            absent += 1
            with pytest.raises(FileNotFoundError):
                FeatureStore(targets[-1])
    assert killed >= 10, "too few writers were killed before they ended to show anything"
    assert absent >= 5, "the kills came too late to show anything"

    for target in targets:
        assert write_until(0, target)[0] == 0
        check(target)
        assert content(target) == whole, "a resumed store equals an uncut one, byte for byte, and nothing else stays"
