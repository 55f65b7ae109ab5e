import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import merc.store.lock
from merc.store import MANIFEST, FeatureStore, StoreError, StoreWriter
from support.tiny_stores import keys_of, write

PROCESSES = """
import json, os, sys, time
from multiprocessing import get_context
import torch
import merc.store.lock
from merc.conversation import UtteranceKey
from merc.store import FeatureStore, StoreError, StoreWriter

KEYS = [UtteranceKey("train", "0", str(i)) for i in range(12)]

def rows(number):
    return torch.full((12, 4), float(number))

def write(folder, number, same):
    settings = {"encoder": 0 if same else number}
    with StoreWriter(folder, provenance=settings, shard_rows=6, resume=same) as writer:
        for start in range(0, 12, 2):
            new = [i for i in range(start, start + 2) if KEYS[i] not in writer.done]
            if new:
                writer.add([KEYS[i] for i in new], rows(0 if same else number)[new])

def writes(number, folder, trials, patience, gate, answers):
    merc.store.lock.PATIENCE = patience
    told = []
    for trial in range(trials):
        gate.wait()
        try:
            write(f"{folder}/{trial}", number, same=trial % 3 == 2)
            told.append("")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    answers.put((number, told))

def replaces(folder, stop):
    number = 0
    while not stop.is_set():
        number += 1
        write(folder, number % 2 + 1, same=False)  # so that the same bytes come back

def two_writers(folder, trials, patience):
    context = get_context("fork")
    gate, answers = context.Barrier(2), context.Queue()
    arguments = (folder, trials, patience, gate, answers)
    processes = [context.Process(target=writes, args=(number, *arguments)) for number in (1, 2)]
    for process in processes:
        process.start()
    told = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    wrong = []
    for trial, pair in enumerate(zip(told[1], told[2])):
        try:
            found = FeatureStore(f"{folder}/{trial}").gather(KEYS)[0]
            fine = any(torch.equal(found, rows(n)) for n in ((0,) if trial % 3 == 2 else (1, 2)) )
            wrong += [] if fine else [f"{trial}: a mixture"]
        except Exception as error:
            wrong.append(f"{trial}: {type(error).__name__}: {error}")
    return {"told": list(zip(told[1], told[2])), "wrong": wrong}

def one_reader(folder, opens):
    context = get_context("fork")
    stop = context.Event()
    write(folder, 1, same=False)
    process = context.Process(target=replaces, args=(folder, stop))
    process.start()
    wrong, seen = [], set()
    for number in range(opens):
        try:
            store = FeatureStore(folder, verify=number % 2 == 0)
            found, present = store.gather(KEYS)
            value = int(found[0, 0])
            seen.add(value)
            if not (present.all() and torch.equal(found, rows(value)) and store.provenance == {"encoder": value}):
                wrong.append("a mixture")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    stop.set()
    process.join()
    return {"wrong": wrong, "seen": sorted(seen), "writer": process.exitcode}

def hold(folder):
    writer = StoreWriter(folder, shard_rows=1)
    writer.add(KEYS[:1], rows(0)[:1])
    if os.fork() == 0:  # as the worker of a DataLoader
        time.sleep(60)
    print(json.dumps(os.getpid()), flush=True)
    time.sleep(60)

print(json.dumps(globals()[sys.argv[1]](sys.argv[2], *map(json.loads, sys.argv[3:]))))
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start processes quickly")


def start(*arguments):
    here = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", PROCESSES, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def answer(*arguments):
    with start(*arguments) as process:
        return json.loads(process.communicate()[0])


@pytest.mark.parametrize(
    ("trials", "patience"), [(20, 10), (50, 0), *(pytest.param(2000, p, marks=pytest.mark.slow) for p in (10, 0))]
)
def test_two_writers_never_break_a_store(tmp_path, trials, patience):
    found = answer("two_writers", tmp_path, trials, patience)
    assert found["wrong"] == []
    refused = [text for pair in found["told"] for text in pair if text]
    assert all("is being written by process" in text or "is being written by another" in text for text in refused)
    assert all("" in pair for pair in found["told"]), "one of the two must get through"
    assert bool(refused) == (patience == 0), "no trial in which the two met"


@pytest.mark.parametrize("opens", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_reader_never_sees_a_half_replaced_store(tmp_path, opens):
    found = answer("one_reader", tmp_path, opens)
    assert found == {"wrong": [], "seen": [1, 2], "writer": 0}


def test_a_killed_writer_blocks_nobody_and_its_shards_are_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(merc.store.lock, "PATIENCE", 0.2)
    with start("hold", tmp_path) as process:
        worker = None
        try:
            pid = json.loads(process.stdout.readline())
            with pytest.raises(StoreError, match=rf"is being written by process {pid} on .*one writer at a time"):
                StoreWriter(tmp_path)
            workers = Path(f"/proc/{pid}/task/{pid}/children")
            worker = int(workers.read_text()) if workers.is_file() else None
            os.kill(pid, signal.SIGKILL)
            process.wait()
            with StoreWriter(tmp_path) as writer:
                assert len(writer.done) == 1
        finally:
            process.kill()
            if worker is not None:
                os.kill(worker, signal.SIGKILL)


def test_a_second_writer_in_the_same_process_waits_and_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(merc.store.lock, "PATIENCE", 0.2)
    first = StoreWriter(tmp_path, provenance={"encoder": "first"})
    first.add(keys_of(6), torch.ones(6, 4))
    begun = time.monotonic()
    with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on "):
        write(tmp_path)
    assert time.monotonic() - begun >= 0.2
    first.commit()
    assert FeatureStore(tmp_path).provenance == {"encoder": "first"}
    write(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_the_lock_ends_with_the_block(tmp_path, error):
    writer = StoreWriter(tmp_path)
    try:
        with writer:
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    StoreWriter(tmp_path).close()
    with pytest.raises(StoreError, match="was committed or closed by this writer: make a new one"):
        writer.commit()


def test_where_the_file_system_has_no_locks_a_marker_takes_their_place(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(merc.store.lock, "PATIENCE", 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock says so, once
        with StoreWriter(tmp_path) as writer:
            with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on "):
                write(tmp_path)
            writer.add(keys_of(2), torch.ones(2, 4))
        write(tmp_path)
    assert len(FeatureStore(tmp_path)) == 6


def test_a_part_needs_no_lock_and_cannot_commit(tmp_path):
    writer = StoreWriter(tmp_path)
    part = StoreWriter(tmp_path, part=True)
    part.add(keys_of(2), torch.ones(2, 4))
    part.flush()
    with pytest.raises(StoreError, match=r"this one writes parts of it \(part=True\)"):
        part.commit()
    assert not (tmp_path / MANIFEST).exists()
    writer.take_parts()
    writer.commit()
    assert FeatureStore(tmp_path).keys == keys_of(2)
