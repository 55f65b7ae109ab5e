"""What decides a result beside the words of a config: a change of any of it must make stages run again."""

import os
import sys
from pathlib import Path

import pytest

import merc.pipeline.contents
from merc.pipeline.contents import file_digest, listing, options_with_contents, with_contents


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_plain_values_stay(here):
    value = {"a": [1, 2.5, None, True, "text", "", "no/such/file.csv", "\0", "x" * 5000], "b": {"c": "{data}/x"}}
    assert with_contents(value) == value
    for library in ("merc.fusion.ConcatFusion", "torch.optim.AdamW", "collections.OrderedDict", "nobody.Here", "1.5"):
        assert with_contents(library) == library


def test_a_file_counts_by_its_content_wherever_it_lies(here):
    (here / "my.csv").write_text("one")
    before = with_contents({"files": ["my.csv"]})
    (here / "my.csv").rename(here / "other.csv")
    assert with_contents({"files": [str(here / "other.csv")]}) == before
    (here / "other.csv").touch()
    assert with_contents({"files": ["other.csv"]}) == before
    (here / "other.csv").write_text("two")
    assert with_contents({"files": ["other.csv"]}) != before


def test_a_file_is_read_again_only_after_it_has_changed(here, monkeypatch):
    file, reads = here / "big.bin", []
    file.write_bytes(b"1")
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args: reads.append(path) or original(path, *args))
    assert file_digest(file) == file_digest(file) and reads == [file]
    os.utime(file, ns=(0, 0))
    file_digest(file)
    assert reads == [file, file]


def test_a_folder_counts_by_names_sizes_and_times_if_a_slash_tells_it_from_a_word(here):
    (here / "text/sub").mkdir(parents=True)
    (here / "text/sub/a").write_text("1")
    assert with_contents("text") == "text"
    before = with_contents("./text")
    assert before == with_contents(str(here / "text")) != "./text"
    (here / "text/sub/a").write_text("12")
    changed = with_contents("./text")
    assert changed != before
    (here / "text/sub/a").rename(here / "text/sub/b")
    assert with_contents("./text") != changed
    assert with_contents("/") == "/"  # a delimiter, not all files of the machine


def test_results_in_a_folder_do_not_count(here):
    (here / "root").mkdir()
    (here / "root/a").write_text("1")
    before = listing(here / "root", here / "root/out")
    assert before == listing(here / "root")
    (here / "root/out/data").mkdir(parents=True)
    (here / "root/out/data/corpus.json").write_text("{}")
    assert listing(here / "root", Path("root/out")) == before != listing(here / "root")
    (here / "root/gone").symlink_to(here / "nowhere")
    assert listing(here / "root", here / "root/out") == before


def changes(name, file):
    """Whether a change of a file is one of what a name stands for."""
    before = with_contents({"class_path": name})
    assert before == with_contents({"class_path": name})
    file.write_text(file.read_text() + "\n# changed")
    return before != with_contents({"class_path": name})


def test_a_class_of_ones_own_counts_by_the_source_of_its_module_or_package(here):
    (here / "my_head.py").write_text("raise SystemExit('is never imported')")
    assert changes("my_head.Head", here / "my_head.py")
    (here / "my_package/inner").mkdir(parents=True)
    for file in ("__init__.py", "heads.py", "inner/deep.py"):
        (here / "my_package" / file).write_text("from .heads import Head")
    for file in ("__init__.py", "heads.py", "inner/deep.py"):
        assert changes("my_package.Head", here / "my_package" / file)
    (here / "folder").mkdir()
    (here / "folder/head.py").write_text("class Head: ...")
    assert changes("folder.head.Head", here / "folder/head.py")


def test_what_a_class_of_ones_own_imports_counts_too(here):
    (here / "my_model.py").write_text("import torch, numpy\nfrom my_blocks import Block\nclass Model(Block): ...")
    (here / "my_blocks.py").write_text("def deep():\n    import my_layers.gates\nimport my_model")
    (here / "my_layers").mkdir()
    for file in ("__init__.py", "gates.py"):
        (here / "my_layers" / file).write_text("")
    for file in ("my_model.py", "my_blocks.py", "my_layers/gates.py"):
        assert changes("my_model.Model", here / file)
    (here / "others.py").write_text("")
    assert not changes("my_model.Model", here / "others.py")
    (here / "my_blocks.py").write_text("this is no Python")
    assert changes("my_model.Model", here / "my_blocks.py")


def test_of_an_installed_class_the_version_counts(here, monkeypatch):
    assert with_contents("yaml.SafeLoader").startswith("yaml.SafeLoader PyYAML ")
    before = with_contents("yaml.SafeLoader")
    monkeypatch.setattr(merc.pipeline.contents, "version", lambda name: "99")
    assert with_contents("yaml.SafeLoader") == "yaml.SafeLoader PyYAML 99" != before


def test_a_script_that_is_named_like_a_table_is_not_run(here):
    (here / "train.py").write_text("raise SystemExit('was run')")
    with_contents("train.csv")
    with_contents("train.main")


def test_options_of_the_command_line_count_by_content_too(here):
    (here / "tick.py").write_text("class Tick: ...")
    (here / "my.csv").write_text("one")
    for options in (
        ["--trainer.callbacks+=tick.Tick"],
        ["--trainer.callbacks", "tick.Tick"],
        ['--trainer.callbacks=[{"class_path": "tick.Tick"}]'],
    ):
        before = options_with_contents(options)
        (here / "tick.py").write_text((here / "tick.py").read_text() + "\n")
        assert options_with_contents(options) != before
    before = options_with_contents(["--data.file=my.csv"])
    (here / "my.csv").write_text("two")
    assert options_with_contents(["--data.file=my.csv"]) != before
    assert options_with_contents(["--a=1"]) != options_with_contents(["--a=2"]) != options_with_contents(["--b=2"])
    assert options_with_contents(["--a={"]) == [["--a", "{", "{"]]
