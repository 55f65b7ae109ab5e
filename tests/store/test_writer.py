import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import merc.store.writer
from merc.conversation import UtteranceKey
from merc.store import MANIFEST, FeatureStore, StoreError, StoreWriter
from support.tiny_stores import content, keys_of, rows_of, write, write_in_shards


def test_writing_twice_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a", provenance={"encoder": "minilm", "classes": ["joy"]})
    write(tmp_path / "b", provenance={"encoder": "minilm", "classes": ["joy"]})
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "rows", "lengths", "message"),
    [
        ("faces", torch.zeros(2, 7), None, "of kind faces, which has lengths: got none"),
        ("features", torch.zeros(2, 7), [1, 1], "of kind features, which has one row per utterance: got lengths"),
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


def test_a_full_disk_leaves_the_old_store_whole(tmp_path, monkeypatch):
    _, keys, features = write(tmp_path)
    before = content(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for target, name in [(merc.store.writer, "save"), (merc.store.writer, "manifest_bytes"), (os, "fsync")]:
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
    with pytest.raises(FileNotFoundError, match="its extraction was interrupted: run the same command again"):
        FeatureStore(tmp_path)
    with StoreWriter(tmp_path, provenance={"encoder": "a"}, shard_rows=2) as writer:
        assert writer.done == set(keys[:5])
        writer.add(keys[5:], features[5:])
    store = FeatureStore(tmp_path)
    assert store.keys == keys
    assert torch.equal(store.gather(keys)[0], features)


def test_what_an_interrupted_run_found_missing_is_settled_but_not_what_a_finished_store_lacks(tmp_path):
    def run(keys):
        writer = StoreWriter(tmp_path, kind="faces")
        if keys:
            writer.add(keys, torch.ones(2, 7), [2])
        return writer

    first = run(keys_of(1))
    first.skip(keys_of(2)[1], "broken clip")
    first.flush()
    first.skip(keys_of(3)[2], "not flushed: forgotten")
    first.close()
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
    writers = [StoreWriter(tmp_path, kind="crops", shard_rows=2, part=number > 0) for number in range(3)]
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


def test_damaged_shards_of_an_interrupted_run_are_written_again(tmp_path):
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


def test_a_shard_that_is_gone_at_the_commit_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"has lost shard-.* something else removes files there"):
        with StoreWriter(tmp_path, shard_rows=2) as writer:
            writer.add(keys_of(6), torch.randn(6, 4))
            next(tmp_path.glob("*.safetensors")).unlink()
    assert not (tmp_path / MANIFEST).exists()


def test_a_damaged_shard_of_a_finished_store_is_made_again_in_its_place(tmp_path):
    def extract():
        with StoreWriter(tmp_path, shard_rows=2) as writer:
            for place, key in enumerate(keys_of(7)):
                if place % 3 == 1:
                    writer.skip(key, "no face")
                elif key not in writer.done:
                    writer.add([key], torch.full((1, 4), float(place)))

    extract()
    before = content(tmp_path)
    for file in sorted(tmp_path.glob("shard-*")):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        extract()
        assert content(tmp_path) == before, "what was made from the store is still made from this store"


def test_keys_are_told_apart_as_they_are(tmp_path):
    names = ["0", " 0", "0 ", "00", "\t0", "a", "A", "\u0661", "1", ""]
    keys = [UtteranceKey("train", "0", name) for name in names]
    store = FeatureStore.write(tmp_path, keys, torch.arange(10.0)[:, None])
    assert [float(store[key]) for key in keys] == list(range(10))


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
from support.killing import die_at
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
        lines = die_at(int(moment) or None, "merc/store/writer.py", "merc/store/manifest.py", "merc/files.py")
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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
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
