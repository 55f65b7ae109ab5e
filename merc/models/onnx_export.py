"""Networks in formats that other runtimes read: ONNX, and for text encoders the programs of ``torch.export``."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from merc.batch import ConversationBatch, Edges
from merc.encoders.text import TextBatch, TextEncoder
from merc.files import write_json
from merc.graphs import EDGE_ATTRIBUTES, GraphEncoder
from merc.labels import IGNORE_INDEX
from merc.media.rates import MEL_BANDS, MEL_PER_FRAME
from merc.models.errors import ModelError
from merc.models.model import Model
from merc.models.steps import Encode, Network
from merc.speaker import SyncNetwork, load_lipsync
from merc.speaker.base import TraceNetwork
from merc.speaker.pretrained import shipped_lipsync

ABOUT = "onnx.json"
"""File beside the networks: what they take and give, and in which order a model asks them."""

TOLERANCE = 1e-4
"""How far the numbers of ONNX Runtime may be from those of PyTorch, in parts of the larger of 1 and their size."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_EDGES = ("edge_index", "edge_attributes", "edge_weight")
_LIPSYNC = "merc.lipsync/"


def export_onnx(source: Model | SyncNetwork | str | Path, folder: str | Path) -> list[Path]:
    """Write the networks of a model as ONNX, each in a file of its own, and compare them with ONNX Runtime.

    Of a model every fusion head, teacher and student becomes ``STEP.onnx``. It takes one conversation of any length, as
    a prediction depends on no other, with the edges of its graph where it has one. A text encoder becomes ``STEP.pt2``,
    which :func:`torch.export.load` reads. ``onnx.json`` names the inputs and outputs of each file with their shapes,
    and has the plain values of the other steps. Of a network that compares lips with sound come ``lips.onnx`` and
    ``voice.onnx``.

    Args:
        source: A model, or a network of lips and sound; or the folder or name of either
            (:func:`merc.models.load`, :func:`merc.speaker.load_lipsync`).
        folder: Where to write; made if it is not there.

    Returns:
        The files.

    Raises:
        ModelError: A package for ONNX is not installed, a network cannot be exported, or ONNX Runtime disagrees.
    """
    if lacking := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ModelError(
            f"ONNX files need the packages {', '.join(_PACKAGES)}, and {', '.join(lacking)} is not installed: "
            "pip install 'merc[onnx]'."
        )
    if isinstance(source, str | Path):
        source = load_lipsync(source).network if _is_lipsync(source) else Model.from_pretrained(source)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Model):
        about = _export_model(source, folder)
    else:
        about = {"networks": _export_lips(source.eval(), folder)}
    write_json(folder / ABOUT, about)
    return [folder / ABOUT, *(folder / network["file"] for network in about["networks"].values())]


def _is_lipsync(source: str | Path) -> bool:
    """Whether a name or a folder is of weights of LipSyncNet."""
    try:
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return str(source) in shipped_lipsync()
    return isinstance(config, dict) and str(config.get("format")).startswith(_LIPSYNC)


def _export_model(model: Model, folder: Path) -> dict[str, Any]:
    networks: dict[str, Any] = {}
    for name, step in model.steps.items():
        file = re.sub(r"\W+", "-", name)
        if isinstance(step, Network):
            networks[name] = _export_network(step, folder / f"{file}.onnx")
        elif isinstance(step, Encode) and isinstance(step.encoder, TextEncoder):
            networks[name] = _export_text(step, step.encoder, folder / f"{file}.pt2")
    return {
        "labels": list(model.labels.names),
        "dimensions": model.dimensions,
        "output": f"{model.output}/logits",
        "networks": networks,
        "steps": {name: {"kind": step.kind, "reads": step.reads, **step.plain()} for name, step in model.steps.items()},
    }


class _OneConversation(ConversationBatch):
    """A batch of one conversation, whose number of utterances stays open while a network is traced."""

    def __post_init__(self) -> None:
        """Check nothing: sizes are symbols here."""

    @property
    def num_utterances(self) -> int:
        return self.label.shape[0]

    @property
    def num_conversations(self) -> int:
        return 1

    @property
    def conversation(self) -> Tensor:
        return torch.zeros_like(self.position)

    def in_any(self, chosen: Tensor) -> Tensor:
        return chosen.any().expand_as(chosen)

    def to_dense(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[None], torch.ones_like(self.position, dtype=torch.bool)[None]

    def to_flat(self, dense: Tensor) -> Tensor:
        return dense[0]


class _Conversation(nn.Module):
    """A fusion head or a graph encoder on the tensors of one conversation."""

    def __init__(self, network: nn.Module, modality: str | None) -> None:
        super().__init__()
        self.network = network
        self.modality = modality

    def forward(
        self,
        features: dict[str, Tensor],
        present: dict[str, Tensor],
        speaker: Tensor,
        edges: dict[str, tuple[Tensor, Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, ...]:
        nodes = speaker.shape[0]
        start = speaker.new_zeros(1)
        graphs = {name: Edges(*edge, ptr=start) for name, edge in (edges or {}).items()}
        if self.modality is not None:
            name = self.modality
            logits, hidden = self.network(features[name], present[name], graphs[name])
            return logits, hidden
        batch = _OneConversation(
            features=features,
            present=present,
            label=torch.full_like(speaker, IGNORE_INDEX),
            speaker=speaker,
            position=torch.arange(nodes),
            ptr=torch.cat([start, torch.full_like(start, nodes)]),
            edges=graphs,
        )
        output = self.network(batch)
        return (output.logits,) if output.embeddings is None else (output.logits, output.embeddings)


def _export_network(step: Network, path: Path) -> dict[str, Any]:
    graph = isinstance(step.network, GraphEncoder)
    wrapper = _Conversation(step.network, next(iter(step.dims)) if graph else None).eval()
    names = list(step.dims)
    utterances, edges = Dim("utterances", min=1), {name: Dim(f"edges_{name}", min=1) for name in step.builders}

    def example(size: int) -> tuple[Any, ...]:
        source = torch.Generator().manual_seed(size)
        features = {name: torch.randn(size, step.dims[name], generator=source) for name in names}
        present = {name: torch.rand(size, generator=source) > 0.2 for name in names}
        speaker = torch.arange(size) % 2
        graphs = {name: _some_edges(size, source) for name in step.builders}
        return (features, present, speaker, graphs) if graphs else (features, present, speaker)

    one = {name: {0: utterances} for name in names}
    shapes: tuple[Any, ...] = (one, one, {0: utterances})
    if edges:
        shapes = (*shapes, {name: ({1: e}, {0: e}, {0: e}) for name, e in edges.items()})
    inputs = {
        **{f"features_{name}": ["utterances", step.dims[name]] for name in names},
        **{f"present_{name}": ["utterances"] for name in names},
        "speaker": ["utterances"],
    }
    for name in edges:
        sizes = ([2, f"edges_{name}"], [f"edges_{name}", len(EDGE_ATTRIBUTES)], [f"edges_{name}"])
        inputs |= {f"{part}_{name}": size for part, size in zip(_EDGES, sizes, strict=True)}
    with torch.no_grad():
        widths = [int(out.shape[1]) for out in wrapper(*example(3))]
    outputs = {name: ["utterances", width] for name, width in zip(("logits", "hidden"), widths, strict=False)}
    _export(wrapper, example, (7, 1, 40), shapes, list(inputs), list(outputs), path)
    return {"file": path.name, "inputs": inputs, "outputs": outputs, "graphs": step.graphs}


def _some_edges(nodes: int, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Edges between random utterances, sorted by their targets as those of a graph builder are."""
    target = torch.arange(nodes).repeat_interleave(3)
    index = torch.stack([torch.randint(nodes, (len(target),), generator=source), target])
    attributes = torch.rand(len(target), len(EDGE_ATTRIBUTES), generator=source)
    return index, attributes, attributes[:, -1].clamp(min=0.01)


class _Lips(nn.Module):
    network: SyncNetwork

    def __init__(self, network: SyncNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        encode = self.network.trace_video if isinstance(self.network, TraceNetwork) else self.network.embed_video
        found, speaks = encode(crops)
        return (found,) if speaks is None else (found, speaks)


class _Voice(nn.Module):
    network: SyncNetwork

    def __init__(self, network: SyncNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, sound: Tensor) -> tuple[Tensor]:
        encode = self.network.trace_audio if isinstance(self.network, TraceNetwork) else self.network.embed_audio
        return (encode(sound),)


def _export_lips(network: SyncNetwork, folder: Path) -> dict[str, Any]:
    windows, frames, size = Dim("windows", min=1), Dim("frames", min=3), network.size

    def crops(number: int) -> tuple[Tensor]:
        source = torch.Generator().manual_seed(number)
        shape = (number, 8 + 3 * number, size, size)
        return (torch.randint(256, shape, generator=source, dtype=torch.uint8),)

    def sound(number: int) -> tuple[Tensor]:
        source = torch.Generator().manual_seed(number)
        return (torch.randn(number, MEL_PER_FRAME * (8 + 3 * number), MEL_BANDS, generator=source) * 3 - 5,)

    lips, voice = _Lips(network).eval(), _Voice(network).eval()
    found = "traces" if isinstance(network, TraceNetwork) else "vectors"
    with torch.no_grad():
        outputs = [found, "speaks"][: len(lips(*crops(2)))]
    shape = ["windows", "channels", "frames"] if found == "traces" else ["windows", "width"]
    _export(lips, crops, (3, 1, 2), ({0: windows, 1: frames},), ["crops"], outputs, folder / "lips.onnx")
    _export(
        voice, sound, (3, 1, 2), ({0: windows, 1: MEL_PER_FRAME * frames},), ["sound"], [found], folder / "voice.onnx"
    )
    return {
        "lips": {
            "file": "lips.onnx",
            "inputs": {"crops": ["windows", "frames", size, size]},
            "outputs": {name: shape if name == found else ["windows"] for name in outputs},
        },
        "voice": {
            "file": "voice.onnx",
            "inputs": {"sound": ["windows", f"{MEL_PER_FRAME} * frames", MEL_BANDS]},
            "outputs": {found: shape},
        },
    }


class _Text(nn.Module):
    """A text encoder on token ids, with its classifier if it has one."""

    def __init__(self, encoder: TextEncoder, classifier: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, mask_position: Tensor) -> tuple[Tensor, ...]:
        vectors = self.encoder(TextBatch((), input_ids, attention_mask, mask_position, mask_position))
        return (vectors,) if self.classifier is None else (vectors, self.classifier(vectors))


def _export_text(step: Encode, encoder: TextEncoder, path: Path) -> dict[str, Any]:
    wrapper = _Text(encoder, step.classifier).eval()
    texts, tokens = Dim("texts", min=1), Dim("tokens", min=2, max=encoder.max_tokens)

    def example(size: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.randint(encoder.network.config.vocab_size, (size, 4 + size))
        mask = torch.arange(4 + size) < 3 + torch.arange(size)[:, None]
        return ids, mask, torch.ones(size, dtype=torch.long)

    both = {0: texts, 1: tokens}
    with _exporting(wrapper, path):
        torch.export.save(_traced(wrapper, example(3), (both, both, {0: texts})), path)
    program = torch.export.load(path).module()
    for size in (1, 5):
        given = example(size)
        with torch.no_grad():
            _compare(path, wrapper(*given), program(*given))
    inputs = {"input_ids": ["texts", "tokens"], "attention_mask": ["texts", "tokens"], "mask_position": ["texts"]}
    outputs = {name: ["texts", width] for name, width in step.widths.items()}
    return {"file": path.name, "inputs": inputs, "outputs": outputs, "encoder": step.spec}


def _export(
    network: nn.Module,
    example: Callable[[int], tuple[Any, ...]],
    sizes: Sequence[int],
    shapes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
) -> None:
    """Write a network, and compare it on inputs of several sizes, the first of which is the one that is traced."""
    import onnxruntime

    with _exporting(network, path):
        given = example(sizes[0])
        names: dict[str, Any] = {"input_names": inputs, "output_names": outputs, "dynamic_shapes": shapes}
        program = torch.onnx.export(_traced(network, given, shapes), given, verbose=False, **names)
        assert program is not None
        program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in sizes:
        given = example(size)
        with torch.no_grad():
            expected = network(*given)
        tensors = [tensor.numpy() for tensor in torch.utils._pytree.tree_leaves(given)]
        found = session.run(None, dict(zip(inputs, tensors, strict=True)))
        _compare(path, expected, [torch.as_tensor(numbers) for numbers in found])


def _traced(network: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(network, example, dynamic_shapes=shapes, strict=False)


@contextmanager
def _exporting(network: nn.Module, path: Path) -> Iterator[None]:
    """Turn what the exporters of PyTorch raise into one line, and silence what they say on the way."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of every kind, from deep inside
        kind = type(getattr(network, "network", getattr(network, "encoder", network))).__name__
        why = f"{type(error).__name__}: {(str(error) or 'no reason').splitlines()[0]}"
        raise ModelError(
            f"{kind} cannot be exported as {path.name} ({why}). A network whose steps depend on the number of "
            "utterances, such as one that goes turn by turn, has no such form."
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(path: Path, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Refuse numbers that are not those of PyTorch."""
    for right, given in zip(expected, found, strict=True):
        gap = float(((right - given).abs() / right.abs().clamp(min=1)).max())
        if right.shape != given.shape or not gap <= TOLERANCE:
            path.unlink()
            raise ModelError(
                f"{path.name} gives other numbers than PyTorch (by {gap:.2g} on shape {tuple(right.shape)}, expected "
                f"at most {TOLERANCE:g}): it was removed. Another version of onnxruntime may be right."
            )
