"""What a model does, step by step: encode, measure, weigh the evidence, run a network, average."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch, consecutive_batches, token_batches
from merc.conversation import Conversation, UtteranceKey
from merc.encoders.sentences import UtteranceEncoder
from merc.encoders.text import TextEncoder
from merc.features import GaussianEvidence, measure_writing
from merc.fusion import FusionHead
from merc.graphs import GraphBuilder, GraphEncoder
from merc.labels import LabelSet
from merc.models.build import Maker
from merc.models.errors import ModelError
from merc.store import FeatureStore, difference
from merc.weights import weights_digest

ENCODERS = "encoders"
"""The folder of a model in which pretrained encoders lie, if it includes them."""

_TOKENS = 4096
_UTTERANCES = 1024
"""Tokens of a batch that is encoded, padding included, and utterances of one that a network reads: those of a run."""


class Values(NamedTuple):
    """What a step says of N utterances.

    Attributes:
        rows: ``(N, d)``.
        present: ``(N,)`` booleans: whether it knows something of the utterance itself.
    """

    rows: Tensor
    present: Tensor


@dataclass
class Question:
    """What a model is asked, and what its steps have said so far.

    Args:
        conversations: The conversations.
        features: Stores with features that the model does not compute itself, by the name of the step that needs them.
        values: By ``step/output``, what the steps said.
    """

    conversations: Sequence[Conversation]
    features: Mapping[str, FeatureStore]
    values: dict[str, Values] = field(default_factory=dict)

    @property
    def worded(self) -> Tensor:
        """``(N,)`` booleans: whether an utterance has words. One without is no text, not an empty one."""
        return torch.tensor([bool(one.text.strip()) for c in self.conversations for one in c.utterances])

    @property
    def keys(self) -> list[UtteranceKey]:
        """The N utterances."""
        return [key for conversation in self.conversations for key in conversation.keys]


class Step(nn.Module):
    """One step of a model.

    Attributes:
        kind: Its name in config.json.
        name: By which later steps refer to it.
    """

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        super().__init__()
        if not re.fullmatch(r"\w[\w-]*(/\w[\w-]*)*", name):  # encoders lie in folders of these names
            raise ModelError(f"A step of the model has the name {name!r}: expected plain words.")
        self.name = name

    @classmethod
    @abstractmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Step:
        """The step that :meth:`plain` describes, its weights not loaded yet.

        Args:
            name: Its name.
            values: What :meth:`plain` gave.
            make: Makes its networks.
            folder: The folder of the model.
        """

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """What it is made from, in plain values."""

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Width of every output."""

    @property
    def reads(self) -> list[str]:
        """The values that it reads, each as ``step/output``."""
        return []

    @abstractmethod
    def answer(self, question: Question) -> dict[str, Values]:
        """What it says, by output."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights that travel in the model."""
        return self.state_dict()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights of :meth:`tensors` over.

        Raises:
            ModelError: Some are missing, unknown, or of another shape.
        """
        own = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in sorted(own.keys() | given.keys()):
            if own.get(name) != given.get(name):
                raise ModelError(
                    f"The weights {self.name}/{name} have the shape {given.get(name, 'nothing')}, expected "
                    f"{own.get(name, 'nothing')}: the weights do not fit config.json. Copy the model again."
                )
        self.load_state_dict(tensors, strict=False)  # what is not among them has come from elsewhere


class Given(Step):
    """Features that the model does not compute: of voices, of faces, of a table. Absent unless they are given.

    Args:
        name: Its name.
        width: Width of the features.
        provenance: Where those of the training came from, in plain values.
    """

    kind = "given"

    def __init__(self, name: str, width: int, provenance: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.width = width
        self.provenance = dict(provenance)

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Given:
        """Of its width and its provenance."""
        return cls(name, int(values["width"]), values["provenance"])

    def plain(self) -> dict[str, Any]:
        """Its width and its provenance."""
        return {"width": self.width, "provenance": self.provenance}

    @property
    def widths(self) -> dict[str, int]:
        """That of the features."""
        return {"features": self.width}

    def answer(self, question: Question) -> dict[str, Values]:
        """The features of the store, if one is given."""
        keys = question.keys
        if self.name not in question.features:
            return {"features": Values(torch.zeros(len(keys), self.width), torch.zeros(len(keys), dtype=torch.bool))}
        rows, present = question.features[self.name].gather(keys)
        return {"features": Values(rows.float(), present)}

    def check(self, store: FeatureStore, other_encoders: bool) -> None:
        """Refuse features that are not like those of the training.

        Raises:
            StoreError: They have another width.
            ModelError: They come from another encoder.
        """
        store.require(dim=self.width)
        differs = difference(self.provenance, store.provenance)
        if differs and not other_encoders:
            raise ModelError(
                f"{store.path} holds features of another source than {self.name!r} of the model ({differs}). Make them "
                "with the stage of the run that the model came from, or pass other_encoders=True if you know that they "
                "mean the same."
            )


class Encode(Step):
    """Turns every utterance into a vector, with a text encoder, and classifies it if the encoder was tuned to.

    Args:
        name: Its name.
        encoder: The encoder.
        spec: What makes it: its import path, with its arguments.
        tuned: Whether its weights travel in the model. Those of a frozen one are elsewhere, and are told by a digest.
        classes: Emotions of its classifier; 0 without one.
        included: Whether the folder of the model holds the files of the pretrained encoder.
    """

    kind = "encode"

    def __init__(
        self, name: str, encoder: nn.Module, spec: Mapping[str, Any], *, tuned: bool, classes: int, included: bool
    ) -> None:
        super().__init__(name)
        if not isinstance(encoder, UtteranceEncoder):
            raise ModelError(f"{type(encoder).__name__} of {name!r} is no text encoder: expected tokenize, collate.")
        self.encoder = encoder
        self.spec = dict(spec)
        self.tuned = tuned
        self.included = included
        self.classifier = nn.Linear(encoder.dim, classes) if classes else None
        self.digest = None if tuned else weights_digest(encoder)

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Encode:
        """With the pretrained encoder that it names, or that is in the folder.

        Raises:
            ModelError: The encoder has other weights than in training.
        """
        spec = values["encoder"]
        here = spec
        if values["included"] and folder is not None:
            place = str(folder / ENCODERS / name)
            here = {**spec, "init_args": {**spec["init_args"], "model": place}}
        step = cls(
            name,
            make.make(here, nn.Module),
            spec,
            tuned=bool(values["tuned"]),
            classes=int(values["classes"]),
            included=bool(values["included"]),
        )
        if step.digest != values["digest"]:
            raise ModelError(
                f"The encoder {spec['init_args'].get('model', spec['class_path'])!r} of the model has the digest "
                f"{str(step.digest)[:12]}, expected {str(values['digest'])[:12]}: its weights are not those of the "
                "training. Install the version that the run used."
            )
        return step

    def plain(self) -> dict[str, Any]:
        """The encoder by its identity."""
        classes = 0 if self.classifier is None else self.classifier.out_features
        names = ("tuned", "included", "digest")
        return {"encoder": self.spec, "classes": classes, **{name: getattr(self, name) for name in names}}

    @property
    def widths(self) -> dict[str, int]:
        """Those of the vectors and of the logits."""
        logits = {} if self.classifier is None else {"logits": self.classifier.out_features}
        return {"features": int(self.encoder.dim), **logits}

    def tensors(self) -> dict[str, Tensor]:
        """All if the encoder was tuned, else those of the classifier."""
        return {name: t for name, t in self.state_dict().items() if self.tuned or not name.startswith("encoder.")}

    def answer(self, question: Question) -> dict[str, Values]:
        """The vectors of all utterances that have words, from batches of similar length."""
        encoder: Any = self.encoder
        items = encoder.tokenize(question.conversations)
        rows, there = torch.zeros(len(items), int(encoder.dim)), question.worded
        worded = there.nonzero()[:, 0]
        for batch in token_batches([len(items[index]) for index in worded], _TOKENS):
            chosen = worded[batch]
            rows[chosen] = encoder(encoder.collate([items[index] for index in chosen])).float()
        logits = {} if self.classifier is None else {"logits": Values(self.classifier(rows), there)}
        return {"features": Values(rows, there), **logits}

    def save_encoder(self, folder: Path) -> None:
        """Write the files of the pretrained encoder.

        Raises:
            ModelError: It is not a TextEncoder, whose files are known.
        """
        if not isinstance(self.encoder, TextEncoder):
            raise ModelError(
                f"{type(self.encoder).__name__} of {self.name!r} cannot be included: expected a TextEncoder. Export "
                "the model without its encoders."
            )
        self.encoder.tokenizer.save_pretrained(folder)
        self.encoder.network.save_pretrained(folder)


class Writing(Step):
    """Measures how utterances are written (:func:`merc.features.measure_writing`), alone or behind features.

    Args:
        name: Its name.
        behind: The value whose rows come first, if any.
        width: Width of these rows.
    """

    kind = "writing"

    def __init__(self, name: str, behind: str | None, width: int) -> None:
        super().__init__(name)
        self.behind = behind
        self.width = width

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Writing:
        """Of what comes first."""
        return cls(name, values["behind"], int(values["width"]))

    def plain(self) -> dict[str, Any]:
        """What comes first."""
        return {"behind": self.behind, "width": self.width}

    @property
    def widths(self) -> dict[str, int]:
        """That of the rows."""
        return {"features": self.width + len(measure_writing(""))}

    @property
    def reads(self) -> list[str]:
        """What comes first."""
        return [] if self.behind is None else [self.behind]

    def answer(self, question: Question) -> dict[str, Values]:
        """The numbers of every utterance."""
        utterances = [utterance for c in question.conversations for utterance in c.utterances]
        rows = torch.tensor([measure_writing(utterance.text) for utterance in utterances])
        if self.behind is None:
            return {"features": Values(rows * question.worded[:, None], question.worded)}
        first, present = question.values[self.behind]
        return {"features": Values(torch.cat([first, rows], dim=1) * present[:, None], present)}


class Evidence(Step):
    """Evidence of each emotion, by a fit that was made once (:class:`merc.features.GaussianEvidence`).

    Args:
        name: Its name.
        of: The value that it was fitted on.
        width: Width d of its rows.
        classes: Number of emotions C.
        append: Whether the rows stand in front of the evidence.
    """

    kind = "evidence"
    _PARTS = ("mean", "whiten", "offset", "frequency", "temperature", "noise")

    def __init__(self, name: str, of: str, width: int, classes: int, append: bool) -> None:
        super().__init__(name)
        self.of = of
        self.width = width
        self.classes = classes
        self.append = append
        shapes = ((classes, width), (width, width), (classes,), (classes,), (), ())
        for part, shape in zip(self._PARTS, shapes, strict=True):
            self.register_buffer(part, torch.zeros(shape, dtype=torch.double))

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Evidence:
        """Of its sizes."""
        return cls(name, values["of"], int(values["width"]), int(values["classes"]), bool(values["append"]))

    @classmethod
    def fitted(cls, name: str, of: str, fit: GaussianEvidence, append: bool) -> Evidence:
        """From a fit, of which only what new utterances need is kept: no training utterance."""
        classes, width = fit.mean.shape
        step = cls(name, of, width, classes, append)
        step.load_tensors({part: torch.as_tensor(getattr(fit, part), dtype=torch.double) for part in cls._PARTS})
        return step

    def plain(self) -> dict[str, Any]:
        """Its sizes."""
        return {name: getattr(self, name) for name in ("of", "width", "classes", "append")}

    @property
    def widths(self) -> dict[str, int]:
        """That of the rows."""
        return {"features": self.classes + self.append * self.width}

    @property
    def reads(self) -> list[str]:
        """What it was fitted on."""
        return [self.of]

    def answer(self, question: Question) -> dict[str, Values]:
        """The evidence where there are features."""
        rows, present = question.values[self.of]
        nobody = torch.zeros(0, self.classes, dtype=torch.double)
        parts: dict[str, Any] = {part: getattr(self, part) for part in self._PARTS}
        numbers = {part: float(parts[part]) for part in ("temperature", "noise")}
        fit = GaussianEvidence(**{**parts, **numbers}, membership=nobody, weight=0.0)
        evidence = torch.zeros(len(rows), self.classes)
        evidence[present] = fit(rows[present])
        both = torch.cat([rows, evidence], dim=1) if self.append else evidence
        return {"features": Values(both, present)}


class Network(Step):
    """A graph encoder or a fusion head on whole conversations.

    Args:
        name: Its name.
        network: The network.
        spec: What makes it: its import path, with its own options.
        stores: The values that it reads, by the names that the network knows them by.
        dims: The widths of those that it was made with, in this order; the graphs may need others.
        classes: Number of outputs: emotions C, and behind them dimensions D.
        graphs: The graphs that it uses, as plain values, by the name of the features that decide similarity.
        make: Makes the graph builders.
        values: By dimension, mean and standard deviation of the numbers of the training, which the network learned
            with mean 0 and standard deviation 1.
    """

    kind = "network"

    def __init__(
        self,
        name: str,
        spec: Mapping[str, Any],
        stores: Mapping[str, str],
        dims: Mapping[str, int],
        classes: int,
        graphs: Mapping[str, Any],
        make: Maker,
        values: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__(name)
        self.values = {dimension: [float(mean), float(spread)] for dimension, (mean, spread) in (values or {}).items()}
        self.spec = dict(spec)
        self.stores = dict(stores)
        self.dims = {name: int(width) for name, width in dims.items()}
        self.classes = int(classes)
        self.graphs = dict(graphs)
        self.builders: dict[str, GraphBuilder] = {n: make.make(graph, GraphBuilder) for n, graph in graphs.items()}
        if lacking := sorted({*dims, *graphs} - stores.keys()):
            raise ModelError(f"The network {name!r} of the model reads {lacking}, which no step gives.")
        kind = make.find(spec["class_path"], nn.Module)
        if issubclass(kind, GraphEncoder):
            [width] = self.dims.values()
            self.network = make.make(spec, GraphEncoder, width, self.classes)
        else:
            self.network = make.make(spec, FusionHead, self.dims, self.classes)
            self.network.num_values = len(self.values)

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Network:
        """As its constructor has it."""
        spec, stores, dims = values["network"], values["stores"], values["dims"]
        return cls(name, spec, stores, dims, values["classes"], values["graphs"], make, values.get("values"))

    def plain(self) -> dict[str, Any]:
        """What it is made of."""
        names = ("stores", "dims", "classes", "graphs", *["values"] * bool(self.values))
        return {"network": self.spec, **{name: getattr(self, name) for name in names}}

    @property
    def widths(self) -> dict[str, int]:
        """Those of the logits, and of the hidden states of a graph encoder."""
        hidden = {"hidden": self.network.hidden_dim} if isinstance(self.network, GraphEncoder) else {}
        return {"logits": self.classes, **hidden}

    @property
    def reads(self) -> list[str]:
        """All stores."""
        return list(self.stores.values())

    def answer(self, question: Question) -> dict[str, Values]:
        """Logits and hidden states; present where any of its inputs is. Elsewhere they come from the context alone."""
        inputs = {name: question.values[value] for name, value in self.stores.items()}
        there = torch.stack([inputs[name].present for name in self.dims]).any(0)
        parts = [self._run(batch) for batch in self._batches(question.conversations, inputs)]
        return {name: Values(torch.cat([part[name] for part in parts]), there) for name in parts[0]}

    def _batches(
        self, conversations: Sequence[Conversation], inputs: Mapping[str, Values]
    ) -> Iterator[ConversationBatch]:
        start = 0
        for chosen in consecutive_batches([len(conversation) for conversation in conversations], _UTTERANCES):
            batch = structure([conversations[index] for index in chosen])
            here = slice(start, start + batch.num_utterances)
            start = here.stop
            for name, (rows, present) in inputs.items():
                batch.features[name], batch.present[name] = rows[here] * present[here, None], present[here]
            for name, build in self.builders.items():
                batch.edges[name] = build(batch, name)
            yield batch

    def _run(self, batch: ConversationBatch) -> dict[str, Tensor]:
        if isinstance(self.network, GraphEncoder):
            [name] = self.dims
            logits, hidden = self.network(batch.features[name], batch.present[name], batch.graph(name))
            return {"logits": self._in_units(logits.float()), "hidden": hidden.float()}
        output = self.network(batch)
        embeddings = {} if output.embeddings is None else {"hidden": output.embeddings.float()}
        return {"logits": self._in_units(output.logits.float()), **embeddings}

    def _in_units(self, outputs: Tensor) -> Tensor:
        """The outputs, the numbers among them in the units of the corpus."""
        if not self.values:
            return outputs
        mean, spread = outputs.new_tensor(list(self.values.values())).T
        emotions, numbers = outputs.tensor_split([self.classes - len(self.values)], dim=1)
        return torch.cat([emotions, numbers * spread + mean], dim=1)


class Mean(Step):
    """The log of the mean probability of several steps (as :func:`merc.evaluation.ensemble_logits`), and mean numbers.

    Args:
        name: Its name.
        members: Their logits.
        classes: Number of outputs: emotions C, and behind them dimensions D.
        numbers: D.
    """

    kind = "mean"

    def __init__(self, name: str, members: Sequence[str], classes: int, numbers: int = 0) -> None:
        super().__init__(name)
        self.members = list(members)
        self.classes = classes
        self.numbers = numbers

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Mean:
        """Of its members."""
        return cls(name, values["members"], int(values["classes"]), int(values.get("numbers", 0)))

    def plain(self) -> dict[str, Any]:
        """Its members."""
        numbers = {"numbers": self.numbers} if self.numbers else {}
        return {"members": self.members, "classes": self.classes, **numbers}

    @property
    def widths(self) -> dict[str, int]:
        """That of the logits."""
        return {"logits": self.classes}

    @property
    def reads(self) -> list[str]:
        """Its members."""
        return self.members

    @property
    def weights(self) -> list[float]:
        """How much each member counts."""
        return [1.0] * len(self.members)

    def answer(self, question: Question) -> dict[str, Values]:
        """The mean over the members that say something of an utterance; over all if none does."""
        found = [question.values[member] for member in self.members]
        there = torch.stack([member.present for member in found])
        rows = torch.stack([member.rows for member in found]).double()
        emotions, numbers = rows.tensor_split([self.classes - self.numbers], dim=-1)
        counted = torch.where(there.any(0), there, True)[..., None]
        weight = counted * torch.tensor(self.weights, dtype=torch.double)[:, None, None]
        means = [(part * weight).sum(0) / weight.sum(0) for part in (emotions.softmax(-1), numbers)]
        logits = torch.cat([means[0].clamp(min=1e-30).log(), means[1]], dim=1)
        return {"logits": Values(logits.float(), there.any(0))}


class LateFusion(Mean):
    """The log of the weighted mean of probabilities, each told from something else, such as text and face.

    Args:
        name: Its name.
        parts: Their logits, by a name that results show.
        shares: How much each part counts, above 0; those that say nothing of an utterance do not.
        classes: Number of emotions C.
    """

    kind = "late_fusion"

    def __init__(self, name: str, parts: Mapping[str, str], shares: Mapping[str, float], classes: int) -> None:
        super().__init__(name, list(parts.values()), classes)
        if parts.keys() != shares.keys() or not all(math.isfinite(share) and share > 0 for share in shares.values()):
            raise ModelError(f"Step {name!r} of the model has the shares {shares}: expected one above 0 of each part.")
        self.parts = dict(parts)
        self.shares = {part: float(shares[part]) for part in parts}

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> LateFusion:
        """Of its parts."""
        return cls(name, values["parts"], values["shares"], int(values["classes"]))

    def plain(self) -> dict[str, Any]:
        """Its parts."""
        return {"parts": self.parts, "shares": self.shares, "classes": self.classes}

    @property
    def weights(self) -> list[float]:
        """The shares."""
        return list(self.shares.values())


class Columns(Step):
    """Takes some columns of features for the logits of the emotions, such as those of another set of labels.

    Args:
        name: Its name.
        modality: What the features are of, ``visual`` for faces.
        of: The features.
        width: Their width.
        columns: The column of every emotion.
    """

    kind = "columns"

    def __init__(self, name: str, modality: str, of: str, width: int, columns: Sequence[int]) -> None:
        super().__init__(name)
        self.modality, self.of, self.width, self.columns = modality, of, width, [int(column) for column in columns]
        if not all(0 <= column < width for column in self.columns):
            raise ModelError(f"Step {name!r} of the model takes the columns {self.columns} of {width}.")

    @classmethod
    def from_plain(cls, name: str, values: Mapping[str, Any], make: Maker, folder: Path | None) -> Columns:
        """Of its columns."""
        return cls(name, values["modality"], values["of"], int(values["width"]), values["columns"])

    def plain(self) -> dict[str, Any]:
        """Its columns."""
        return {name: getattr(self, name) for name in ("modality", "of", "width", "columns")}

    @property
    def widths(self) -> dict[str, int]:
        """That of the logits."""
        return {"logits": len(self.columns)}

    @property
    def reads(self) -> list[str]:
        """The features."""
        return [self.of]

    def answer(self, question: Question) -> dict[str, Values]:
        """The columns."""
        rows, present = question.values[self.of]
        return {"logits": Values(rows[:, self.columns], present)}


def structure(conversations: Sequence[Conversation]) -> ConversationBatch:
    """Conversations as a batch without features; labels, which may be of any set, are left out."""
    nothing = LabelSet("none", ("none",))
    unlabelled = [
        replace(c, utterances=tuple(replace(utterance, label=None) for utterance in c.utterances))
        for c in conversations
    ]
    return ConversationBatch.from_conversations(unlabelled, nothing)
