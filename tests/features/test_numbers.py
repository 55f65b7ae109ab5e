"""Tables of numbers: filled, standardized and keyed, never silently zero."""

from pathlib import Path
from statistics import fmean, median, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Conversation, Corpus, CorpusError, Utterance, UtteranceKey
from merc.corpora.meld import read_meld
from merc.features.numbers import KeyColumns, import_table
from merc.labels import MELD

REAL = Path(__file__).parents[2].parent / "shared/data/meld"


def corpus_of(**splits):
    """A corpus with one dialogue "0" of the given number of utterances in every split."""
    return Corpus(
        "toy",
        MELD,
        {
            split: [Conversation("0", tuple(Utterance(str(i), "A") for i in range(count)), split)]
            for split, count in splits.items()
        },
    )


def write(path, *rows, header="file,a,b"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.skipif(not REAL.is_dir(), reason="the real MELD prosody files are not at ../shared/data/meld")
def test_real_prosody():
    corpus = read_meld(REAL)
    table = import_table([REAL / f"{split}_audio_features.csv" for split in ("train", "dev", "test")], corpus)
    assert table.features.shape == (13706, 10)
    assert set(table.missing) == {UtteranceKey("train", "125", "3"), UtteranceKey("val", "110", "7")}
    assert table.provenance["columns"][-2:] == ["avg_pitch_empty", "articulation_rate_empty"]
    empty = {
        split: table.features[torch.tensor([key.partition == split for key in table.keys]), -2:].sum(0).tolist()
        for split in corpus
    }
    # Rows of utterances that the corpus lacks are no part of these counts.
    assert empty["train"] == [77, 370]
    assert empty["val"][0] <= 12
    train = table.features[torch.tensor([key.partition == "train" for key in table.keys]), :8].double()
    assert train.mean(0).abs().max() < 0.02
    assert table.features.abs().max() == 10
    assert any(
        note.startswith("9 rows belong to utterances that are not in the corpus") for note in table.provenance["notes"]
    )
    assert any("test/38/4" in note and "beyond 10 deviations" in note for note in table.provenance["notes"])
    raw = import_table(
        [REAL / f"{split}_audio_features.csv" for split in ("train", "dev", "test")],
        corpus,
        values=["duration", "mean_hnr"],
        standardize=False,
    )
    assert raw.features.shape == (13706, 2)
    first = next(
        row for row in (REAL / "test_audio_features.csv").read_text().splitlines() if row.startswith("dia38_utt4.")
    )
    assert raw.features[raw.keys.index(UtteranceKey("test", "38", "4")), 0].item() == pytest.approx(
        float(first.split(",")[1])
    )


@given(
    cells=st.lists(
        st.tuples(*[st.none() | st.integers(-1000, 1000).map(lambda n: n / 8)] * 2), min_size=6, max_size=12
    ).filter(lambda rows: all(any(row[i] is not None for row in rows[:4]) for i in (0, 1)))
)
def test_against_the_slow_and_obvious_version(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("table")
    corpus = corpus_of(train=4, test=len(cells) - 4)
    lines = [
        f"dia0_utt{i if i < 4 else i - 4}.wav,{'train' if i < 4 else 'test'},"
        + ",".join("" if cell is None else repr(cell) for cell in row)
        for i, row in enumerate(cells)
    ]
    path = write(folder / "numbers.csv", *lines, header="file,part,a,b")
    table = import_table([path], corpus, keys=KeyColumns(partition="part"), bound=None)

    order = corpus["train"][0].keys + corpus["test"][0].keys
    kept = [i for i, row in enumerate(cells) if any(cell is not None for cell in row)]
    assert list(table.keys) == [order[i] for i in kept]
    assert list(table.missing) == [key for i, key in enumerate(order) if i not in kept]
    names, columns = ["a", "b"], []
    for index, name in enumerate("ab"):
        values = [cells[i][index] for i in kept]
        middle = median(cells[i][index] for i in kept if i < 4 and cells[i][index] is not None)
        filled = [middle if value is None else value for value in values]
        train = [value for i, value in zip(kept, filled, strict=True) if i < 4]
        columns.insert(index, [(value - fmean(train)) / (pstdev(train) or 1) for value in filled])
        if None in values:
            names.append(f"{name}_empty")
            columns.append([float(value is None) for value in values])
    assert table.provenance["columns"] == names
    torch.testing.assert_close(table.features, torch.tensor(columns).T, rtol=1e-4, atol=1e-4)


def test_a_constant_column_is_centred_only(tmp_path):
    path = write(tmp_path / "train.csv", *(f"dia0_utt{i},0.1,{i}" for i in range(3)))
    assert import_table([path], corpus_of(train=3)).features[:, 0].abs().max() < 1e-6


def test_missing_rows_empty_rows_and_extra_rows_are_told_apart(tmp_path):
    path = write(tmp_path / "train.csv", "dia0_utt0,1,2", "dia0_utt1,,", "dia7_utt7,5,6")
    table = import_table([path], corpus_of(train=3))
    assert table.missing == {
        UtteranceKey("train", "0", "1"): "its row contains no number",
        UtteranceKey("train", "0", "2"): "no row in the table",
    }
    assert table.features.shape == (1, 2)
    assert "1 rows belong to utterances that are not in the corpus: train/7/7." in table.provenance["notes"]


@pytest.mark.parametrize("form", ["name", "mapping", "column", "pattern"])
def test_ways_to_give_the_partition(tmp_path, form):
    corpus = corpus_of(train=1, val=1)
    keys = KeyColumns()
    files = [write(tmp_path / "my-train.csv", "dia0_utt0,1,2"), write(tmp_path / "dev_x.csv", "dia0_utt0,3,4")]
    if form == "mapping":
        files = dict(
            zip(("train", "dev"), [file.rename(tmp_path / f"{i}.csv") for i, file in enumerate(files)], strict=True)
        )
    if form == "column":
        files = [write(tmp_path / "all.csv", "0,0,train,1,2", "0,0,dev,3,4", header="d,u,p,a,b")]
        keys = KeyColumns(partition="p", dialogue="d", utterance="u")
    if form == "pattern":
        files = [write(tmp_path / "all.csv", "train:0:0,1,2", "val:0:0,3,4")]
        keys = KeyColumns(pattern=r"(?P<partition>\w+):(?P<dialogue>\d+):(?P<utterance>\d+)")
    table = import_table(files, corpus, keys=keys, standardize=False)
    assert [str(key) for key in table.keys] == ["train/0/0", "val/0/0"]
    assert table.features.tolist() == [[1, 2], [3, 4]]


def test_ids_that_are_unique_need_no_partition(tmp_path):
    corpus = Corpus(
        "i", MELD, {"train": [Conversation("Ses01F_impro01", (Utterance("Ses01F_impro01_F000", "F"),), "session1")]}
    )
    path = write(tmp_path / "train.csv", "Ses01F_impro01_F000,1,2")
    keys = KeyColumns(pattern=r"(?P<utterance>(?P<dialogue>Ses.*)_[FM]\w{3})")
    assert import_table([path], corpus, keys=keys).keys == corpus["train"][0].keys


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("dia0_utt1,nan,1", r"train\.csv, line 3, column 'a': 'nan' is not a finite number"),
        ("dia0_utt1,1,inf", "line 3, column 'b': 'inf'"),
        ("dia0_utt1,1,-1e39", "'-1e39' is not a finite number"),
        ("dia0_utt1,1,1_0", "'1_0' is not a finite number"),
        ("dia0_utt1,1,high", "'high' is not a finite number"),
        ("dia0_utt0,1,1", "line 3: train/0/0 already has a row in .* line 2"),
        ("utt1,1,1", "line 3: 'utt1' does not match"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path, row, message):
    path = write(tmp_path / "train.csv", "dia0_utt0,1,2", row)
    with pytest.raises(CorpusError, match=message):
        import_table([path], corpus_of(train=2))


def test_bad_files_are_refused(tmp_path):
    corpus = corpus_of(train=1, test=1)
    train = write(tmp_path / "train.csv", "dia0_utt0,1,2")
    with pytest.raises(CorpusError, match="Expected the same columns"):
        import_table([train, write(tmp_path / "test.csv", "dia0_utt0,1,2", header="file,b,a")], corpus)
    with pytest.raises(
        CorpusError, match=r"No row belongs to an utterance of corpus 'toy': the first row is train/9/9"
    ):
        import_table({"train": write(tmp_path / "x.csv", "dia9_utt9,1,2")}, corpus)
    with pytest.raises(CorpusError, match="nothing says which"):
        import_table([write(tmp_path / "x.csv", "dia0_utt0,1,2")], corpus)
    with pytest.raises(CorpusError, match="'a' has no number in the train split"):
        import_table([write(tmp_path / "train.csv", "dia0_utt0,,2")], corpus)
    with pytest.raises(CorpusError, match="no columns of numbers"):
        import_table([write(tmp_path / "train.csv", "dia0_utt0", header="file")], corpus)
    with pytest.raises(CorpusError, match="has no column 'c'"):
        import_table([train], corpus, values=["c"])
    with pytest.raises(CorpusError, match="has no train split"):
        import_table([train], corpus_of(test=1))


def test_key_columns_are_checked():
    with pytest.raises(ValueError, match="both a dialogue and an utterance column"):
        KeyColumns(dialogue="d")
    with pytest.raises(ValueError, match="needs the groups"):
        KeyColumns(pattern=r"(\d+)")
    with pytest.raises(ValueError, match="not a regular expression"):
        KeyColumns(pattern="(")


@pytest.mark.parametrize("bound", [-1.0, 0.0, float("nan")])
def test_a_bound_that_makes_all_values_equal_is_refused(tmp_path, bound):
    path = write(tmp_path / "train.csv", "dia0_utt0.wav,1,2", "dia0_utt1.wav,2,3")
    corpus = corpus_of(train=2)
    with pytest.raises(ValueError, match="expected a positive number"):
        import_table([path], corpus, bound=bound)
    with pytest.raises(ValueError, match="expected a positive number"):
        import_table([path], corpus, standardize=False).standardized(set(corpus["train"][0].keys), bound)


CASE = Path(__file__).parents[2].parent / "shared/cases/21_opensmile_csv"
TALKS = Corpus(
    "toy",
    MELD,
    {
        "train": [
            Conversation(d, tuple(Utterance(str(i), "A") for i in range(n)), "train") for d, n in (("0", 2), ("1", 1))
        ]
    },
)


@pytest.mark.skipif(not CASE.is_dir(), reason="the case of openSMILE's CSV files is not at ../shared/cases")
def test_what_opensmile_and_openface_write(tmp_path):
    table = import_table([CASE / "train_egemaps.csv"], TALKS)
    assert table.features.shape == (3, 88)
    assert "start, end" in table.provenance["notes"][0]
    table = import_table([CASE / "smilextract_train.csv"], TALKS, standardize=False)
    assert table.provenance["columns"] == ["F0_sma", "energy"]
    assert table.features[0].tolist() == pytest.approx([-0.006, 0.768])
    with pytest.raises(CorpusError, match=r"a row for every frame, as OpenFace .* named like dia0_utt0\.csv"):
        import_table([CASE / "openface_train.csv"], TALKS)
    clip = tmp_path / "dia1_utt0.csv"
    clip.write_text((CASE / "openface_train.csv").read_text())
    with pytest.raises(CorpusError, match="If they are frames, pass --frames mean or --frames mean-std"):
        import_table([clip], TALKS)
    table = import_table([clip], TALKS, standardize=False, frames="mean-std")
    assert table.provenance["columns"] == ["AU01_r_mean", "AU12_r_mean", "AU01_r_std", "AU12_r_std"]
    frames = [0.98, 0.42, 0.97, 0.75, 0.48]
    assert table.features[0, [0, 2]].tolist() == pytest.approx([fmean(frames), pstdev(frames)])


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from("01"), st.floats(-9, 9, width=16)), min_size=1, max_size=9
    )
)
def test_frames_with_a_face_are_averaged(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("openface") / "train"
    folder.mkdir()
    header = "frame, timestamp, success, AU01_r"
    for name in "01":
        cells = [f"{i}, 0.{i}, {ok}, {value}" for i, (ok, of, value) in enumerate(rows) if of == name]
        write(folder / f"dia0_utt{name}.csv", *cells, "9, 9.9, 1, 1.0", header=header)
    files = [folder / f"dia0_utt{name}.csv" for name in "01"]
    table = import_table(files, TALKS, standardize=False, frames="mean")
    for key, row in zip(table.keys, table.features, strict=True):
        seen = [value for ok, of, value in rows if ok and of == key.utterance] + [1.0]
        assert float(row[0]) == pytest.approx(fmean(seen), abs=1e-5)


def test_a_column_of_words_is_left_out_but_one_with_some_is_refused(tmp_path):
    path = write(tmp_path / "train.csv", "dia0_utt0,hi,1", "dia0_utt1,ho,2", "dia1_utt0,,3")
    assert import_table([path], TALKS).provenance["columns"] == ["b"]
    path = write(tmp_path / "train.csv", "dia0_utt0,hi,1", "dia0_utt1,4,2")
    with pytest.raises(CorpusError, match="'hi' is not a finite number"):
        import_table([path], TALKS)
