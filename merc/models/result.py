"""What a model answers: an emotion for every utterance, how probable it is, numbers, and what it was told from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.labels import LabelSet

if TYPE_CHECKING:
    import pandas as pd

    from merc.evaluation import Predictions, ValuePredictions


@dataclass(frozen=True, eq=False)
class Emotions:
    """The emotions of N utterances, or numbers such as their valence, or both.

    Args:
        labels: The emotions that the model tells apart; columns are in the order of its names. Of a model of numbers
            alone it is empty.
        keys: The N utterances.
        lines: Speaker and text of each.
        probabilities: ``(N, C)``, from 0 to 1; the rows sum to 1.
        present: By modality, ``(N,)`` booleans: whether the utterance has it. An utterance without any is judged by its
            context alone.
        gold: ``(N,)`` label ids of utterances that came with a label of this set, -100 for others.
        parts: Of a model that fuses late, ``(N, C)`` probabilities by part, such as ``text`` and ``face``; NaN where a
            part says nothing.
        dimensions: The numbers that the model tells, with the lowest and highest number of the scale of each.
        values: ``(N, D)`` numbers in the order of the dimensions, on their scales; they may lie a little beyond them.
        gold_values: ``(N, D)`` numbers of utterances that came with some, NaN for others.
    """

    labels: LabelSet
    keys: Sequence[UtteranceKey]
    lines: Sequence[tuple[str, str]]
    probabilities: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)
    gold: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    dimensions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    values: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    gold_values: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def __len__(self) -> int:
        """Number of utterances N."""
        return len(self.keys)

    @property
    def label(self) -> list[str]:
        """The most probable emotion of every utterance.

        Raises:
            ValueError: The model tells numbers alone.
        """
        self._require_emotions()
        return [self.labels.names[index] for index in self.probabilities.argmax(dim=1).tolist()]

    @property
    def used(self) -> list[tuple[str, ...]]:
        """The modalities that the emotion of every utterance was told from."""
        here = {name: there.tolist() for name, there in self.present.items()}
        return [tuple(name for name, there in here.items() if there[row]) for row in range(len(self))]

    @property
    def uncertainty(self) -> Tensor:
        r"""``(N,)`` entropy of the probabilities in nats: 0 for a certain emotion, :math:`\log C` for a guess.

        Raises:
            ValueError: The model tells numbers alone, whose uncertainty is not known.
        """
        self._require_emotions()
        entropy: Tensor = torch.special.entr(self.probabilities.double()).sum(dim=1)
        return entropy

    def _require_emotions(self) -> None:
        """Refuse what is of emotions, for a model of numbers alone."""
        if not len(self.labels):
            raise ValueError(f"The model tells {', '.join(self.dimensions)} and no emotions: use `values`.")

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with one row per utterance, in the order of the question.

        Columns: dialogue, utterance, speaker, text; of a model of emotions emotion, uncertainty, ``p_<emotion>``; the
        dimensions of a model of numbers, by their names; used (modalities joined by ``+``). Needs pandas.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "dialogue": [key.dialogue for key in self.keys],
            "utterance": [key.utterance for key in self.keys],
            "speaker": [speaker for speaker, _ in self.lines],
            "text": [text for _, text in self.lines],
        }
        if len(self.labels):
            columns |= {"emotion": self.label, "uncertainty": self.uncertainty.tolist()}
        columns |= {f"p_{n}": self.probabilities[:, self.labels.index(n)].tolist() for n in self.labels.report_order}
        columns |= {name: self.values[:, column].tolist() for column, name in enumerate(self.dimensions)}
        return pd.DataFrame({**columns, "used": ["+".join(names) for names in self.used]})

    def to_predictions(self) -> Predictions:
        """As :class:`merc.evaluation.Predictions`, which score, compare, and are written as ``predictions.csv``.

        Raises:
            PredictionsError: An utterance occurs twice.
        """
        from merc.evaluation import Predictions  # takes a second to import

        return Predictions(self.labels, self.keys, self.gold, self.probabilities, self.present, self.lines)

    def to_value_predictions(self) -> ValuePredictions:
        """The numbers as :class:`merc.evaluation.ValuePredictions`, which score, compare, and are written likewise.

        Raises:
            PredictionsError: An utterance occurs twice.
        """
        from merc.evaluation import ValuePredictions

        return ValuePredictions(self.dimensions, self.keys, self.gold_values, self.values, self.present, self.lines)

    def to_csv(self) -> str:
        """The text of a ``predictions.csv``.

        :func:`merc.evaluation.read_predictions` reads its emotions, :func:`merc.evaluation.read_value_predictions` its
        numbers.
        """
        if not self.dimensions:
            return self.to_predictions().to_csv()
        if not len(self.labels):
            return self.to_value_predictions().to_csv()
        from merc.evaluation import EmotionValuePredictions

        return EmotionValuePredictions(self.to_predictions(), self.to_value_predictions()).to_csv()
