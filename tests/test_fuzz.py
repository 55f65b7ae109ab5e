"""The fuzzer notices what fails: other exceptions, hangs, memory and crashes; and the readers survive a few attacks."""

import os
import signal
import time

import pytest

import fuzz
from merc.conversation import CorpusError

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is limited as Linux does it")
pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")


def spin(kind, path):
    while True:
        pass


def refuse(kind, path):
    raise CorpusError(f"{path} is no corpus.")


def stumble(kind, path):
    raise KeyError("start")


def fill(kind, path):
    bytearray(3 * 2**30)


def crash(kind, path):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("read", "state"),
    [(lambda *_: None, "decoded"), (refuse, "refused"), *((bad, "failed") for bad in (spin, stumble, fill, crash))],
)
def test_every_failure_is_counted_and_kept(tmp_path, monkeypatch, read, state):
    monkeypatch.setattr(fuzz, "read", read)
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    source = tmp_path / "seed.srt"
    source.write_text("1\n00:00:01,000 --> 00:00:02,000\nHi.\n")
    counts = fuzz.attack_batch("srt", [source], tmp_path / "work", tmp_path / "keep", seed=0, count=1)
    assert counts == {"tried": 1, state: 1}
    assert (tmp_path / "keep" / "srt-0.srt").exists() == (state == "failed")


def test_the_readers_survive_some_attacks(tmp_path, monkeypatch, capsys):
    begin = time.monotonic()
    monkeypatch.setattr(fuzz, "BATCH", 10)
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--minutes", "0.05", "--seed", "7", "--keep", str(tmp_path / "keep")])
    assert fuzz.main() == 0, [path.read_text() for path in (tmp_path / "keep").glob("*.txt")]
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in ("srt", "vtt", "csv", "table", "json", "pickle", "media"))
    assert time.monotonic() - begin < 60
