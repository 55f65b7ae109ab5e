"""The ledger of a run: every opening is kept, whatever else happens."""

from multiprocessing import get_context

from merc.evaluation import Opening, describe_ledger, read_ledger, record_opening
from merc.evaluation.ledger import LEDGER


def test_openings_are_added_in_order_with_their_time(tmp_path):
    assert read_ledger(tmp_path) == []
    first = Opening("meld/test", "abc", 3, "best.ckpt", "best val/weighted_f1 = 0.5")
    record_opening(tmp_path / "new", first)
    record_opening(tmp_path / "new", Opening("meld/test", "abc", 4))
    found = read_ledger(tmp_path / "new")
    assert [o.seed for o in found] == [3, 4]
    assert found[0] == Opening(**{**vars(first), "time": found[0].time}) and found[0].time.startswith("20")


def test_damaged_lines_count(tmp_path):
    record_opening(tmp_path, Opening("meld/test"))
    with (tmp_path / LEDGER).open("a") as file:
        file.write("{half a li\n[1]\n")
    assert len(read_ledger(tmp_path)) == 3


def many(folder, name):
    for number in range(50):
        record_opening(folder, Opening(name, seed=number))


def test_processes_do_not_mix_their_lines(tmp_path):
    context = get_context("spawn")
    started = [context.Process(target=many, args=(tmp_path, name)) for name in ("a/test", "b/test")]
    for process in started:
        process.start()
    for process in started:
        process.join()
    found = [(o.data, o.seed) for o in read_ledger(tmp_path)]
    assert sorted(found) == [(name, number) for name in ("a/test", "b/test") for number in range(50)]


def test_the_sentence_counts():
    a, b = Opening("meld/test", "a", 0), Opening("meld/test", "b", 0)
    assert describe_ledger([a]) == "test was read once in this run"
    assert describe_ledger([a, a, b], b) == (
        "test was read 3 times in this run, with 2 configurations; this configuration and seed: once"
    )
