"""Reports of made-up systems that predict numbers."""

import torch

from merc.conversation import UtteranceKey
from merc.evaluation import (
    EmotionValuePredictions,
    ReportInfo,
    ValuePredictions,
    write_emotion_value_report,
    write_value_report,
)
from support.made_predictions import made_up

SCALES = {"valence": (1.0, 5.0), "sentiment": (-3.0, 3.0)}


def value_run(folder, noise, seed=0, fold=None, corpus="made", present=None):
    """The report of a stage of a run: the same gold numbers in all, predicted with so much noise."""
    gold = torch.randn(60, 2, generator=torch.Generator().manual_seed(1 + (fold or 0)))
    values = gold + noise * torch.randn(60, 2, generator=torch.Generator().manual_seed(2 + seed))
    of_fold = "" if fold is None else f"fold{fold}-"
    keys = [UtteranceKey("test", f"{of_fold}{row // 6}", str(row % 6)) for row in range(60)]
    info = ReportInfo(corpus, "test", protocol=f"{of_fold}p", seed=seed)
    write_value_report(folder / "report", ValuePredictions(SCALES, keys, gold, values, present or {}), info=info)


def both_run(folder, noise, seed=0):
    """The report of a system that predicts emotions too."""
    emotions = made_up(1 - noise / 3, seed)
    count = len(emotions.keys)
    gold = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    values = gold + noise * torch.randn(count, 2, generator=torch.Generator().manual_seed(2 + seed))
    both = EmotionValuePredictions(emotions, ValuePredictions(SCALES, emotions.keys, gold, values))
    write_emotion_value_report(folder / "report", both, info=ReportInfo("made", "test", protocol="p", seed=seed))
    return both
