"""From a community pickle of the real widths to a trained LFVD and CMATH: the commands of their pages, unchanged."""

import pytest

from merc.cli import main
from merc.corpora.layouts import LAYOUTS
from support.made_pickles import write

AUDIO = {"meld": 300, "iemocap": 1582}
WITH_ALL = [
    name for name, layout in LAYOUTS.items() if layout.corpus in AUDIO and "visual" in (*layout.elements, *layout.files)
]


def widths(layout, text):
    roberta = {f"roberta{number}": 1024 for number in (1, 2, 3, 4)}
    return {"text": text, "audio": AUDIO[LAYOUTS[layout].corpus], "visual": 342, **roberta}


def imported(folder, layout, text=1024):
    path, _ = write(folder, layout, widths=widths(layout, text))
    corpus = LAYOUTS[layout].corpus
    assert main(["import", "pickle", str(path), "--layout", layout, "--out", f"runs/{corpus}-sdt"]) == 0
    return corpus


def fit(corpus, system, *options):
    quick = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
    configs = [f"paper/{system}.yaml", f"corpora/{corpus}_sdt.yaml"]
    if corpus == "iemocap":
        configs.insert(1, f"paper/{system}_iemocap.yaml")
    return main(["fit", *(f"--config={config}" for config in configs), *options, *quick])


@pytest.mark.parametrize("system", ["lfvd", "cmath"])
@pytest.mark.parametrize("layout", WITH_ALL)
def test_every_layout_with_three_modalities_needs_no_option(layout, system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit(imported(tmp_path, layout), system) == 0


def test_other_widths_need_no_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit(imported(tmp_path, "mmgcn-meld", text=600), "lfvd") == 0


def test_a_layout_without_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = imported(tmp_path, "bclstm-meld", text=600)
    stores = {name: f"runs/meld-sdt/features/{name}" for name in ("text", "audio")}
    assert fit(corpus, "cmath", f"--data.stores={stores}") == 0
