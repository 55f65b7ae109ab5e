import errno
import json
import os

import pytest

from merc.files import parse_json, parse_yaml, write_aside, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path):
    with write_aside(tmp_path / "deep" / "a.txt") as aside:
        aside.write_text("new")
        assert names(tmp_path / "deep") == [aside.name], "nothing under the final name before the end"
    assert names(tmp_path / "deep") == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)), write_aside(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_error_without_an_old_file_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"tensor": object()})
    assert names(tmp_path) == []


def test_a_full_disk_at_the_flush_leaves_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_content_is_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        calls.append("flush folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "flush file")
        fsync(handle)

    def note_replace(source, target, **kwargs):
        calls.append("rename")
        replace(source, target, **kwargs)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to tell what is flushed")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "a.txt", "new")
    assert calls == ["flush file", "rename", "flush folder"]


def test_others_may_read_results_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "shared")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_the_name_may_come_from_the_content(tmp_path):
    with write_aside(tmp_path / "x", rename=lambda aside: aside.with_name(aside.read_text())) as aside:
        aside.write_text("content")
    assert names(tmp_path) == ["content"]


def test_json_is_utf8_and_refuses_numbers_that_json_lacks(tmp_path):
    write_json(tmp_path / "a.json", {"text": "naïve \u2019"})
    data = (tmp_path / "a.json").read_bytes()
    assert "naïve \u2019".encode() in data
    assert json.loads(data) == {"text": "naïve \u2019"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_bytes() == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[NaN]", "NaN is no number"),
        ('{"a": 1, "a": 2}', "given twice"),
        ("[" * 101 + "]" * 101, "more than 100 levels"),
    ],
)
def test_strict_json_is_that_of_the_standard(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text, strict=True)
    parse_json(text)
    parse_json("[" * 100 + "]" * 100, strict=True)


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, "[" * 5000 + "]" * 5000, "&a [*a, *a]", "{a: [1"])
def test_yaml_that_no_config_has(text):
    with pytest.raises(ValueError, match=r"x\.yaml is (nested too deeply|not YAML)"):
        parse_yaml(text, "x.yaml")
    assert parse_yaml("a: " + "[" * 99 + "]" * 99, "x.yaml").keys() == {"a"}
