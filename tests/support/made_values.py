"""Reports of made-up systems that predict numbers."""

import torch

from merc.conversation import UtteranceKey
from merc.evaluation import ReportInfo, ValuePredictions, write_value_report

SCALES = {"valence": (1.0, 5.0), "sentiment": (-3.0, 3.0)}


def value_run(folder, noise, seed=0):
    """The report of a stage of a run: the same gold numbers in all, predicted with so much noise."""
    gold = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    values = gold + noise * torch.randn(60, 2, generator=torch.Generator().manual_seed(2 + seed))
    keys = [UtteranceKey("test", str(row // 6), str(row % 6)) for row in range(60)]
    info = ReportInfo("made", "test", protocol="p", seed=seed)
    write_value_report(folder / "report", ValuePredictions(SCALES, keys, gold, values), info=info)
