"""Model: one folder that predicts anywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import merc
from merc.labels import IGNORE_INDEX, LabelSet
from merc.models.build import Maker
from merc.models.conversations import as_conversations
from merc.models.errors import ModelError
from merc.models.folder import CARD, CONFIG, WEIGHTS, read_folder, refuse_other_numbers, write_folder
from merc.models.result import Emotions
from merc.models.steps import ENCODERS, STEPS, Encode, Given, Mean, Network, Question, Step
from merc.store import FeatureStore

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Model:
    """Tells the emotions of conversations, in memory: no Trainer, no folder for results.

    :func:`merc.models.export_run` makes one from a finished run, :meth:`from_pretrained` reads one, and
    :meth:`save_pretrained` writes one. A model is its steps: encoders, fitted evidence and networks, each of which
    reads those before it. It holds no training data.

    Args:
        labels: The emotions.
        steps: The steps, in order.
        output: The step whose logits are the answer.
        about: What the model was trained on, with which protocol and scores, in plain values.
        card: Text of its README.

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
    ) -> None:
        self.labels = labels
        self.steps = {step.name: step.eval().requires_grad_(False) for step in steps}
        self.output = output
        self.about = dict(about or {})
        self.card = card
        self._check()

    def _check(self) -> None:
        """Compare what the steps read with what those before them give."""
        widths: dict[str, int] = {}
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
            widths |= {f"{step.name}/{output}": width for output, width in step.widths.items()}
        logits = {name: width for name, width in widths.items() if name.endswith("/logits")}
        if f"{self.output}/logits" not in logits:
            raise ModelError(f"The model answers with {self.output!r}, which gives no logits.")
        if others := [name for name, width in logits.items() if width != len(self.labels)]:
            raise ModelError(
                f"The model has {len(self.labels)} emotions ({', '.join(self.labels.names)}), and {others[0]} has "
                f"{logits[others[0]]}: config.json was changed. Copy the model again."
            )

    @property
    def modalities(self) -> list[str]:
        """What the emotions are told from, by name."""
        return list(dict.fromkeys(name for step in self._networks(self.output) for name in _inputs(step)))

    @property
    def given(self) -> list[str]:
        """Features that the model does not compute from a transcript: give stores of them to :meth:`predict`."""
        return [name for name, step in self.steps.items() if isinstance(step, Given)]

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
        """The emotion of every utterance.

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
            >>> model = merc.load("text-model")  # doctest: +SKIP
            >>> model.predict([("Ann", "I can't believe you did this to me!")]).label  # doctest: +SKIP
            ['anger']
        """
        asked, order = as_conversations(conversations)
        question = Question(asked, self._stores(features or {}, other_encoders))
        with torch.no_grad():
            for step in self.steps.values():
                question.values |= {f"{step.name}/{name}": v for name, v in step.answer(question).items()}
            probabilities = question.values[f"{self.output}/logits"].rows.softmax(-1)[order]
        if not probabilities.isfinite().all():
            raise ModelError("The model gives probabilities that are not finite: its features or weights are damaged.")
        utterances = [utterance for conversation in asked for utterance in conversation.utterances]
        known = {name: index for index, name in enumerate(self.labels.names)}
        gold = [known.get(utterances[row].label or "", IGNORE_INDEX) for row in order]
        keys = question.keys
        return Emotions(
            self.labels,
            [keys[row] for row in order],
            [(utterances[row].speaker, utterances[row].text) for row in order],
            probabilities,
            {name: there[order] for name, there in self._present(question).items()},
            torch.tensor(gold),
        )

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
            source: A folder, or a name on the Hugging Face hub.
            revision: Branch, tag or commit on the hub.
            token: For a private model on the hub.
            trust_remote_code: Use classes of other packages than merc and ``torch.nn``. They must be installed; the
                model only names them. What they do when they are made is up to them.

        Raises:
            FileNotFoundError: There is no such model.
            ModelError: It is damaged, incomplete, was tampered with, or uses classes that are not trusted.
        """
        folder = Path(source)
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
            return cls(labels, steps, config["output"], config["about"], card)
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
        source: A folder that `merc export` wrote, or a name on the hub.
        revision: Branch, tag or commit on the hub.
        token: For a private model on the hub.
        trust_remote_code: Use classes of other packages than merc and ``torch.nn``.

    Example:
        >>> merc.load("text-model").predict([("Ann", "That's wonderful!")]).label  # doctest: +SKIP
        ['joy']
    """
    return Model.from_pretrained(source, revision=revision, token=token, trust_remote_code=trust_remote_code)
