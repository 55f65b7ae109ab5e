import re

import pytest

from merc.conversation import UtteranceKey
from merc.store import MANIFEST, FeatureStore, StoreError
from support.tiny_stores import write


def test_nothing_there_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No feature store at .*merc predict"):
        FeatureStore(tmp_path / "text")


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


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'"text"', b"\xff", b"[1, 2"])
def test_a_manifest_of_something_else_is_refused(tmp_path, data):
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / MANIFEST))):
        FeatureStore(tmp_path)
