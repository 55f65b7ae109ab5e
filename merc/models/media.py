"""How a model gets voices and faces of recordings: the steps that a transcript does not need."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merc.media.decode import pyav
from merc.models.build import Maker
from merc.models.errors import ModelError
from merc.models.steps import Given, Question, Step, Values
from merc.speaker import LikelihoodScorer, SpeakerScorer, SyncNetwork

if TYPE_CHECKING:  # Lightning takes seconds to import, and sentences need none of it
    import lightning as L

DETECTORS = ("merc.media.MTCNNDetector", "merc.media.CenterFaceDetector")
"""Face detectors that any model may use."""

FIRST = "first"
"""In the place of a step that chooses the speaker: the first face is taken for the speaker's."""


class MediaStep(Step):
    """A step that reads recordings, and leaves stores for those after it. It says nothing of a transcript.

    Attributes:
        outputs: What its stores hold.
    """

    outputs: Sequence[str] = ()

    @property
    def needs(self) -> list[str]:
        """The steps whose stores it reads."""
        return []

    @abstractmethod
    def prepared(self, corpus: Path, stores: Mapping[str, Path]) -> tuple[L.LightningModule, L.LightningDataModule]:
        """The task whose predictions become its stores, and its data.

        Args:
            corpus: The ``corpus.json`` whose utterances have clips.
            stores: The stores of earlier steps, by step and what they hold: ``faces/crops``.

        Raises:
                ImportError: A package is missing that it needs; the message says which.
            ModelError: It cannot be made of what the model says.
        """

    @property
    def widths(self) -> dict[str, int]:
        """None."""
        return {}

    def answer(self, question: Question) -> dict[str, Values]:
        """Nothing."""
        return {}


class Tracks(MediaStep):
    """Finds and follows the faces in clips (:class:`merc.datamodules.TrackReader`).

    Args:
        name: Its name.
        detector: What makes the face detector: its import path, with its options.
        tracker: Options of :class:`merc.media.FaceTracker`.
        reader: Options of :class:`merc.datamodules.TrackReader`.
        make: Makes the detector.
    """

    kind = "tracks"
    outputs = ("faces", "crops", "sound")

    def __init__(
        self,
        name: str,
        detector: Mapping[str, Any],
        tracker: Mapping[str, Any],
        reader: Mapping[str, Any],
        make: Maker,
    ) -> None:
        super().__init__(name)
        self.detector, self.tracker, self.reader, self.make = dict(detector), dict(tracker), dict(reader), make
        if self.detector["class_path"] not in DETECTORS and not make.trust_remote_code:
            raise ModelError(
                f"The model finds faces with {self.detector['class_path']}: expected {' or '.join(DETECTORS)}. If you "
                "trust the model and that package, load it with trust_remote_code=True."
            )

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Tracks:
        """Of its options."""
        return cls(name, values["detector"], values["tracker"], values["reader"], make)

    def plain(self) -> dict[str, Any]:
        """Its options."""
        return {"detector": self.detector, "tracker": self.tracker, "reader": self.reader}

    def prepared(self, corpus: Path, stores: Mapping[str, Path]) -> tuple[L.LightningModule, L.LightningDataModule]:
        """Faces, mouth crops and sound of every clip."""
        from merc.datamodules import MediaDataModule, TrackReader
        from merc.media import FaceTracker
        from merc.tasks import FacesTask

        pyav()
        detector = self.make.make(self.detector, object)
        reader = _made(TrackReader, _made(FaceTracker, detector, **self.tracker), **self.reader)
        return FacesTask(), MediaDataModule(corpus, reader, batch_size=1)


class Speaker(MediaStep):
    """Chooses the face that speaks (:class:`merc.tasks.LipSyncTask`); its weights travel in the model.

    Args:
        name: Its name.
        faces: The step with the faces, mouths and sounds.
        network: What makes the network: its import path, with its options.
        scorer: What makes the scorer.
        make: Makes both.
        trained_on: What the network was trained on, in words.
        calibration: What scores mean (:meth:`merc.speaker.SpeakerScorer.calibrated`); minus infinity is no threshold.
    """

    kind = "speaker"

    def __init__(
        self,
        name: str,
        faces: str,
        network: Mapping[str, Any],
        scorer: Mapping[str, Any],
        make: Maker,
        trained_on: str = "nothing",
        calibration: Tensor | None = None,
    ) -> None:
        super().__init__(name)
        self.faces, self.spec, self.scorer_spec, self.trained_on = faces, dict(network), dict(scorer), trained_on
        self.network = make.make(network, SyncNetwork)
        self.scorer = make.make(scorer, SpeakerScorer)
        self.calibration: Tensor = self.scorer.uncalibrated() if calibration is None else calibration
        self.outputs = ("speaker", "turns") if isinstance(self.scorer, LikelihoodScorer) else ("speaker",)

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Speaker:
        """Of its options."""
        numbers = torch.tensor([-math.inf if value is None else float(value) for value in values["calibration"]])
        step = cls(name, values["faces"], values["network"], values["scorer"], make, str(values["trained_on"]), numbers)
        expected = step.scorer.uncalibrated().shape
        if numbers.shape != expected:
            raise ModelError(
                f"Step {name!r} of the model is calibrated by {len(numbers)} numbers, expected {expected}."
            )
        return step

    def plain(self) -> dict[str, Any]:
        """Its options."""
        return {
            "faces": self.faces,
            "network": self.spec,
            "scorer": self.scorer_spec,
            "trained_on": self.trained_on,
            "calibration": [None if math.isinf(value) else value for value in self.calibration.tolist()],
        }

    @property
    def needs(self) -> list[str]:
        """The step with the faces."""
        return [self.faces]

    def prepared(self, corpus: Path, stores: Mapping[str, Path]) -> tuple[L.LightningModule, L.LightningDataModule]:
        """The choice of the network."""
        from merc.datamodules import LipSyncDataModule, LipSyncSource
        from merc.tasks import LipSyncTask

        task = LipSyncTask(self.network, scorer=self.scorer)
        task.calibration.copy_(self.calibration)
        task.trained_on = self.trained_on
        faces, crops, sound = (stores[f"{self.faces}/{part}"] for part in Tracks.outputs)
        return task, LipSyncDataModule([LipSyncSource(corpus, faces, crops, sound)])


class Recorded(Given, MediaStep):
    """Features of voices or faces, with what makes them of recordings. Absent in a transcript, unless they are given.

    Args:
        name: Its name.
        width: Width of the features.
        provenance: Where those of the training came from, in plain values.
        encoder: What makes the encoder: its import path, with its options.
        reader: Options of :class:`merc.datamodules.FaceReader`, or, for voices, of
            :class:`merc.datamodules.SoundReader`.
        make: Makes the encoder, when a recording comes.
        faces: The step with the faces; ``None`` for voices.
        speaker: The step that chooses among them, or :data:`FIRST`.
    """

    kind = "recorded"
    outputs = ("features",)

    def __init__(
        self,
        name: str,
        width: int,
        provenance: Mapping[str, Any],
        encoder: Mapping[str, Any],
        reader: Mapping[str, Any],
        make: Maker,
        faces: str | None = None,
        speaker: str = FIRST,
    ) -> None:
        super().__init__(name, width, provenance)
        self.encoder, self.reader, self.faces, self.speaker = dict(encoder), dict(reader), faces, speaker
        self.make = make
        make.find(self.encoder["class_path"], nn.Module)  # made later: it may need packages that a transcript does not
        if own := sorted({"faces", "speaker"} & self.reader.keys()):
            raise ModelError(f"Step {name!r} of the model gives its reader {own[0]}: expected it among its own values.")

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Recorded:
        """Of its options."""
        names = ("provenance", "encoder", "reader")
        return cls(
            name,
            int(values["width"]),
            **{part: values[part] for part in names},
            make=make,
            faces=values["faces"],
            speaker=values["speaker"],
        )

    def plain(self) -> dict[str, Any]:
        """Its options."""
        names = ("encoder", "reader", "faces", "speaker")
        return {**super().plain(), **{name: getattr(self, name) for name in names}}

    @property
    def needs(self) -> list[str]:
        """The steps with the faces and the choice among them; none for voices."""
        return [] if self.faces is None else [self.faces, *([] if self.speaker == FIRST else [self.speaker])]

    def prepared(self, corpus: Path, stores: Mapping[str, Path]) -> tuple[L.LightningModule, L.LightningDataModule]:
        """The vectors of its encoder."""
        from merc.datamodules import FaceReader, MediaDataModule, SoundReader
        from merc.tasks import ExtractTask

        pyav()
        task = ExtractTask(self.make.make(self.encoder, nn.Module))
        if self.faces is None:
            return task, MediaDataModule(corpus, _made(SoundReader, **self.reader))
        speaker = FIRST if self.speaker == FIRST else stores[f"{self.speaker}/speaker"]
        reader = _made(FaceReader, stores[f"{self.faces}/faces"], speaker, **self.reader)
        return task, MediaDataModule(corpus, reader)


def _made(kind: Any, *args: object, **options: object) -> Any:  # noqa: ANN401 - an object of that kind
    try:
        return kind(*args, **options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"A {kind.__name__} of the model cannot be made of {options}: {error}") from error
