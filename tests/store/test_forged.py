"""Stores that somebody made by hand: sealed with a right checksum, and wrong in what they say."""

import contextlib
import json
import os
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from merc.conversation import UtteranceKey
from merc.store import MANIFEST, FeatureStore, StoreError, StoreWriter
from merc.store.manifest import digest_of, file_digest, manifest_bytes, shard_name
from support.tiny_stores import content, keys_of, rows_of, write

BAD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, 0.5, 1e308, float("nan"), float("inf")]),
    st.text(max_size=8),
    st.sampled_from(["..", "../x", "/etc/passwd", "shard-0.safetensors", "\0", "float32", "int64", "faces", "\ud800"]),
    st.lists(st.integers(-2, 5), max_size=4),
    st.lists(st.lists(st.text(max_size=2), max_size=4), max_size=4),
    st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=3), max_size=3),
)
ABSENT = object()


def manifest_of(path):
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["checksum"]
    return manifest


def places(value, way=()):
    """The way to every part of a nested value."""
    yield way
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*way, name))


def put(value, way, new):
    *outer, last = way
    for name in outer:
        value = value[name]
    if new is not ABSENT:
        value[last] = new
    elif isinstance(value, dict):
        del value[last]
    else:
        value.pop(last)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    write(folder / "features", provenance={"encoder": {"name": "a", "layers": [1, 2]}}, missing={keys_of(9)[8]: "no"})
    lengths = [2, 0, 1]
    with StoreWriter(folder / "sound", kind="sound", shard_bytes=24) as writer:
        writer.add(keys_of(3), torch.cat(rows_of(lengths)), lengths)
    return folder


def use(path):
    """All that a reader does with a store."""
    store = FeatureStore(path, verify=False)
    assert all(isinstance(key, UtteranceKey) and all(isinstance(part, str) for part in key) for key in store.keys)
    assert isinstance(store.provenance, dict) and isinstance(store.digest, str)
    for key in store.keys:
        assert store.sequence(key).shape[1] == store.dim
    if store.kind not in ("faces", "crops", "sound"):
        store.gather([*store.keys, UtteranceKey("nobody", "", "")])
    with contextlib.suppress(StoreError):
        store.require(kind="logits", dim=3, classes=["joy"])
    store.why_missing([*store.keys, *store.missing])
    FeatureStore(path)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["features", "sound"]))
def test_a_forged_manifest_is_read_or_refused_and_nothing_else(honest, tmp_path, data, kind):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    shutil.copytree(honest / kind, tmp_path / "s")
    manifest = manifest_of(tmp_path / "s")
    for _ in range(data.draw(st.integers(1, 3))):
        ways = [way for way in places(manifest) if way]
        way = data.draw(st.sampled_from(ways))
        put(manifest, way, data.draw(BAD | st.just(ABSENT)))
    (tmp_path / "s" / MANIFEST).write_bytes(manifest_bytes(manifest))
    with contextlib.suppress(StoreError):
        use(tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "smells"}, "has kind 'smells', expected one of features"),
        ({"kind": ["features"]}, r"has kind \['features'\], expected one of"),
        ({"dim": -4}, "has dim -4, expected a width"),
        ({"corpus": "../x"}, r"has corpus '\.\./x', expected the digest of a corpus, or null"),
        ({"corpus": 3}, "has corpus 3, expected the digest"),
        ({"dim": True}, "has dim True, expected a width"),
        ({"dim": 2**62}, "has dim 4611686018427387904, expected a width"),
        ({"dtype": "int64"}, "has dtype 'int64', expected a floating-point type"),
        ({"dtype": "load"}, "has dtype 'load', expected a floating-point type"),
        ({"dtype": None}, "has dtype None"),
        ({"provenance": []}, r"has provenance \[\], expected an object"),
        ({"keys": [["train", "0", 0]] * 6}, "expected a list of keys of three strings"),
        ({"keys": None}, "has keys None"),
        ({"missing": [["train", "0", "0"]]}, "each with a reason"),
        ({"shards": {}}, "has shards {}, expected a list of shards"),
        ({"provenance": {"loss": float("nan")}}, "NaN is no number of JSON"),
        ({"provenance": {"loss": -float("inf")}}, "-Infinity is no number of JSON"),
        ({"version": [1]}, r"has version \[1\]"),
    ],
)
def test_every_member_is_checked(tmp_path, changes, message):
    write(tmp_path)
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(manifest_of(tmp_path) | changes))
    with pytest.raises(StoreError, match=message):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("lengths", [[5, -1, 1], [2**48, 0, 0], [1.0, 2, 2], [True, 2, 2], ["2", 2, 1], None, {}])
def test_lengths_that_are_no_numbers_of_rows_are_refused(tmp_path, lengths):
    FeatureStore.write(tmp_path, keys_of(3), torch.cat(rows_of([2, 2, 1])), kind="sound", lengths=[2, 2, 1])
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(manifest_of(tmp_path) | {"lengths": lengths}))
    with pytest.raises(StoreError, match=r"has lengths .*expected a list of numbers of rows"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("nesting", [101, 600, 100_000])
@pytest.mark.parametrize(("left", "right"), ["[]", ('{"a":', "}")])
def test_deep_nesting_is_refused(tmp_path, nesting, left, right):
    write(tmp_path)
    marked = manifest_bytes(manifest_of(tmp_path) | {"provenance": {"deep": "HERE"}})
    deep = left * nesting + "1" + right * nesting
    (tmp_path / MANIFEST).write_bytes(marked.replace(b'"HERE"', deep.encode()))
    with pytest.raises(StoreError, match="nested"):
        FeatureStore(tmp_path)


def test_a_member_that_is_given_twice_is_refused(tmp_path):
    write(tmp_path)
    file = tmp_path / MANIFEST
    file.write_bytes(file.read_bytes().replace(b'"dim": 4,', b'"dim": 4,\n"dim": 4,'))
    with pytest.raises(StoreError, match="a member is given twice"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("name", ["../other/{}", "{there}/{}", "./{}", "sub/../{}", "..\\other\\{}"])
def test_no_shard_is_read_outside_the_folder(tmp_path, name):
    write(tmp_path / "other", dim=4)
    write(tmp_path / "store", dim=4)
    (tmp_path / "store/sub").mkdir()
    manifest = manifest_of(tmp_path / "store")
    [entry] = manifest["shards"]
    entry["file"] = name.format(entry["file"], there=tmp_path / "other")
    (tmp_path / "store" / MANIFEST).write_bytes(manifest_bytes(manifest))
    with pytest.raises(StoreError, match="expected a list of shards, each with its SHA-256, the name that follows"):
        FeatureStore(tmp_path / "store")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("name", [MANIFEST, "shard"])
def test_links_are_not_followed(tmp_path, name):
    write(tmp_path / "store")
    [file] = (tmp_path / "store").glob(f"{name}*")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"is a link: expected the file itself.*cp -rL"):
        FeatureStore(tmp_path / "store")
    StoreWriter(tmp_path / "store").close()
    with StoreWriter(tmp_path / "store") as writer:
        assert bool(writer.done) == (name == MANIFEST)  # a shard that is a link is none of ours
    assert (tmp_path / "elsewhere").exists()
    assert not any(file.is_symlink() for file in (tmp_path / "store").iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "store")
    FeatureStore(tmp_path / "link")  # the folder itself may be one: whoever gives the path has made it


def forged_shards():
    fingerprint = digest_of(["features", {}])
    keys = [["train", "0", str(i)] for i in range(2)]
    about = {"fingerprint": fingerprint, "order": 0, "keys": keys}
    rows = torch.zeros(2, 4)
    for change in (
        {"keys": None}, {"keys": [["a"]]}, {"keys": [[1, 2, 3]] * 2}, {"keys": [keys[0]] * 2}, {"keys": keys[:1]},
        {"order": "0"}, {"order": -1}, {"order": None},
        {"missing": [["a"]]}, {"missing": 3}, {"missing": [[1, 2, 3, 4]]},
    ):  # fmt: skip
        yield save({"features": rows}, metadata={"merc": json.dumps(about | change)})
    for text in ("", "[]", "null", '"x"', "[" * 100_000, "{", json.dumps(about)[:-1] + ', "order": 1}'):
        yield save({"features": rows}, metadata={"merc": text})
    yield save({"features": rows}, metadata={"other": "x"})
    yield save({"features": rows})
    yield save({"other": rows}, metadata={"merc": json.dumps(about)})
    for other in (torch.zeros(2), torch.zeros(2, 2, 2), torch.tensor(1.0), torch.zeros(3, 4)):
        yield save({"features": other}, metadata={"merc": json.dumps(about)})
    yield b""
    yield b"\xff" * 40
    yield struct.pack("<Q", 2**63) + b"{}"
    header = json.dumps({"features": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}).encode()
    yield struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize("data", forged_shards())
def test_a_shard_that_no_writer_made_is_not_taken_over(tmp_path, data):
    aside = tmp_path / "aside"
    aside.write_bytes(data)
    folder = tmp_path / "store"
    folder.mkdir()
    aside.rename(folder / shard_name(file_digest(aside)))
    with StoreWriter(folder) as writer:
        assert not writer.done and not writer.settled
        writer.add(keys_of(2), torch.ones(2, 4))
    assert FeatureStore(folder).keys == keys_of(2)
    assert len(content(folder)) == 2


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), byte=st.integers(0, 255), length=st.integers(0, 300))
@example(place=0, byte=0, length=0)
def test_a_forged_shard_is_read_or_refused_and_nothing_else(honest, tmp_path, place, byte, length):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    shutil.copytree(honest / "features", tmp_path / "s")
    [file] = (tmp_path / "s").glob("shard-*")
    data = bytearray(file.read_bytes())
    data[place % len(data)] = byte
    data = bytes(data[: len(data) - max(0, length - 250)])
    file.unlink()
    (tmp_path / "aside").write_bytes(data)
    sha256 = file_digest(tmp_path / "aside")
    (tmp_path / "aside").rename(tmp_path / "s" / shard_name(sha256))
    manifest = manifest_of(tmp_path / "s")
    manifest["shards"][0] |= {"file": shard_name(sha256), "sha256": sha256, "bytes": len(data)}
    (tmp_path / "s" / MANIFEST).write_bytes(manifest_bytes(manifest))
    with contextlib.suppress(StoreError):
        use(tmp_path / "s")
