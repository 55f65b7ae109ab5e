"""The people of a film: what its lines and faces sound and look like, and who they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merc.annotation.steps import tell_step
from merc.conversation import Clip, Conversation, Corpus, Utterance, UtteranceKey
from merc.corpora.transcripts import UNKNOWN
from merc.encoders.inputs import SoundBatch
from merc.encoders.voice import VoiceEncoder, VoiceModel
from merc.files import parse_json, write_json
from merc.media.appearance import face_appearance
from merc.media.decode import MediaError, frames_at
from merc.media.rates import FRAME_RATE, SAMPLE_RATE
from merc.media.sound import read_sound
from merc.media.tracks import FaceTrack, rows_to_tracks
from merc.speaker.choose import NOBODY, SpeakerChoice
from merc.speaker.persons import LinkedPersons, Person, PersonLinker, SeenFace, SpokenLine
from merc.speaker.spans import rows_to_spans
from merc.store import FeatureStore

_LONGEST = 20.0  # seconds of a line whose voice is compared
_AT_ONCE = 16  # lines
_AT_A_TIME = 2  # lines whose frames are decoded side by side, with the frames of a line in memory for each
_LOOKS = 4  # frames of a track that tell how it looks
_SILENT = 1e-4  # root mean square
_DOUBTFUL = 0.7  # confidence below which a note counts a line


@dataclass(frozen=True)
class FilmPersons:
    """The people of a film, by utterance.

    Args:
        lines: Who speaks every utterance, as far as that is known.
        faces: The person of every face track of an utterance.
        notes: How sure it is.
    """

    lines: Mapping[UtteranceKey, Person] = field(default_factory=dict)
    faces: Mapping[UtteranceKey, Sequence[Person]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def face(self, key: UtteranceKey, track: int) -> Person | None:
        """The person of a face track."""
        faces = self.faces.get(key, ())
        return faces[track] if 0 <= track < len(faces) else None


@dataclass
class PersonSearch:
    """Finds the people of a film: the voice of every line, the look of every face, and what links them.

    Args:
        voice: Turns sound into voices. Default: :class:`merc.encoders.VoiceEncoder`, if its weights are installed.
        linker: Links them. Default: one that knows how alike two voices of ``voice`` are.

    Example:
        >>> search = PersonSearch(XVectorEncoder("microsoft/wavlm-base-plus-sv"))  # doctest: +SKIP
    """

    voice: VoiceModel | None = None
    linker: PersonLinker | None = None

    def __call__(
        self, corpus: Corpus, stores: Mapping[str, FeatureStore], kept: str | Path | None = None
    ) -> FilmPersons:
        """Find the people of the one conversation of a corpus.

        Args:
            corpus: Of :func:`merc.corpora.read_transcript`.
            stores: What is known of its faces by kind: ``faces``, ``speaker``, ``turns``; any may lack.
            kept: File that keeps the result for the same question.
        """
        [conversation] = [c for split in corpus.values() for c in split]
        voice, notes = self._voice()
        linker = self.linker or (PersonLinker() if voice is None else PersonLinker(voice.slope, voice.middle))
        basis = _digest(conversation, stores, voice, linker)
        if kept is not None and (found := _load(Path(kept), basis, conversation)) is not None:
            return found
        tell_step(f"people of {conversation.id}")
        lines = spoken_lines(conversation, stores, voice)
        linked = linker(lines)
        found = _by_key(conversation, linked, [*notes, *_told(lines, linked, voice is not None)])
        if kept is not None:
            _save(Path(kept), basis, conversation, found)
        return found

    def _voice(self) -> tuple[VoiceModel | None, list[str]]:
        """The voice encoder, or a note that there is none."""
        if self.voice is not None:
            return self.voice, []
        try:
            return VoiceEncoder(), []
        except ModuleNotFoundError as error:
            return None, [f"Voices were not compared. {error}"]


class SpeakerNaming:
    """Names the speakers of conversations by the people who are found in them, and keeps who they are.

    Args:
        search: Finds the people of one film.
        kept: By the id of a conversation, the file that keeps its people.

    Attributes:
        found: The people, by the id of their conversation.
    """

    def __init__(self, search: PersonSearch, kept: Mapping[str, Path]) -> None:
        self.search = search
        self.kept = kept
        self.found: dict[str, FilmPersons] = {}

    def __call__(self, corpus: Corpus, stores: Mapping[str, FeatureStore]) -> Corpus:
        """The corpus with its people as speakers (:data:`merc.pipeline.apply.NameSpeakers`)."""
        splits = {split: [self._named(one, corpus, stores) for one in corpus[split]] for split in corpus}
        return replace(corpus, splits=splits)

    def _named(self, conversation: Conversation, corpus: Corpus, stores: Mapping[str, FeatureStore]) -> Conversation:
        alone = replace(corpus, splits={"test": [conversation]})
        self.found[conversation.id] = self.search(alone, stores, self.kept.get(conversation.id))
        [named] = with_persons(alone, self.found[conversation.id])["test"]
        return named


def spoken_lines(
    conversation: Conversation, stores: Mapping[str, FeatureStore], voice: VoiceModel | None
) -> list[SpokenLine]:
    """The lines of a film with their voices and faces, as :class:`merc.speaker.PersonLinker` takes them.

    Args:
        conversation: The lines; their sound and frames are read.
        stores: As for :class:`PersonSearch`.
        voice: Turns sound into voices; ``None`` leaves them out.
    """
    voices = {} if voice is None else _voices(conversation, voice)
    pairs = list(zip(conversation.keys, conversation.utterances, strict=True))
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="merc-looks") as threads:  # decoders run side by side
        faces = list(threads.map(lambda pair: _seen(pair[0], pair[1], stores), pairs))
    return [
        SpokenLine(
            start=float(utterance.start or 0.0),
            end=float(utterance.end or 0.0),
            name=None if utterance.speaker == UNKNOWN else utterance.speaker,
            voice=voices.get(key),
            faces=seen,
        )
        for (key, utterance), seen in zip(pairs, faces, strict=True)
    ]


def with_persons(corpus: Corpus, found: FilmPersons) -> Corpus:
    """A corpus in which lines without a name have the person that was found as their speaker."""

    def named(key: UtteranceKey, utterance: Utterance) -> Utterance:
        person = found.lines.get(key)
        return utterance if person is None else replace(utterance, speaker=person.name)

    splits = {
        split: [
            replace(c, utterances=tuple(named(key, u) for key, u in zip(c.keys, c.utterances, strict=True)))
            for c in conversations
        ]
        for split, conversations in corpus.items()
    }
    return replace(corpus, splits=splits)


def _voices(conversation: Conversation, voice: VoiceModel) -> dict[UtteranceKey, Tensor]:
    """The voices of all lines that have sound."""
    found: dict[UtteranceKey, Tensor] = {}
    pairs = list(zip(conversation.keys, conversation.utterances, strict=True))
    for at in range(0, len(pairs), _AT_ONCE):
        sounds = {
            key: sound for key, utterance in pairs[at : at + _AT_ONCE] if (sound := _sound(utterance)) is not None
        }
        if sounds:
            vectors = voice(SoundBatch.pad(list(sounds), list(sounds.values())))
            found |= dict(zip(sounds, vectors.float().cpu(), strict=True))
    return found


def _sound(utterance: Utterance) -> Tensor | None:
    clip = utterance.sound
    if clip is None:
        return None
    end = clip.start + _LONGEST if clip.end is None else min(clip.end, clip.start + _LONGEST)
    try:
        sound = read_sound(replace(clip, end=end))
    except MediaError:
        return None
    return sound if len(sound) > SAMPLE_RATE // 10 and float(sound.square().mean().sqrt()) > _SILENT else None


def _seen(key: UtteranceKey, utterance: Utterance, stores: Mapping[str, FeatureStore]) -> list[SeenFace]:
    """The faces of a line, with how they look and how probable it is that they speak."""
    clip, faces = utterance.picture, stores.get("faces")
    tracks = rows_to_tracks(faces.sequence(key)) if faces is not None and key in faces else []
    if not tracks or clip is None:
        return []
    looks, speaks = _looks(clip, tracks), _speaking(key, len(tracks), utterance, stores)
    return [
        SeenFace(clip.start + track.first / FRAME_RATE, track.boxes, FRAME_RATE, look, probability)
        for track, look, probability in zip(tracks, looks, speaks, strict=True)
    ]


def _looks(clip: Clip, tracks: Sequence[FaceTrack]) -> list[Tensor | None]:
    """How every track looks: the mean over a few of its frames."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for number, track in enumerate(tracks):
        for step in range(_LOOKS):
            place = min(int((step + 0.5) * len(track) / _LOOKS), len(track) - 1)
            wanted.setdefault(track.first + place, []).append((number, place))
    found: list[list[Tensor]] = [[] for _ in tracks]
    try:
        for frame in frames_at(clip, wanted, max_height=480):
            for number, place in dict.fromkeys(wanted[frame.first]):
                box = tracks[number].boxes[place : place + 1] * frame.scale
                found[number].append(face_appearance(frame.images, box)[0])
    except MediaError:
        pass  # what was seen until then counts
    return [_mean(own) if own else None for own in found]


def _mean(looks: Sequence[Tensor]) -> Tensor:
    """The mean of appearances, each half of length 1 again."""
    from merc.media.appearance import COLOURS

    mean = torch.stack(list(looks)).mean(0)
    return torch.cat([part / part.norm().clamp(min=1e-9) for part in (mean[:COLOURS], mean[COLOURS:])])


def _speaking(key: UtteranceKey, count: int, utterance: Utterance, stores: Mapping[str, FeatureStore]) -> list[float]:
    """How probable it is that each face of a line is the one that speaks it."""
    speaker, turns = stores.get("speaker"), stores.get("turns")
    if speaker is None or key not in speaker:
        return [0.6 if speaker is None and number == 0 else 0.4 for number in range(count)]  # the first face
    choice = SpeakerChoice.from_row(speaker[key])
    known = choice.probability >= 0  # not NaN
    # That nobody was chosen says little: lips are often turned away or too small.
    others = 0.4 if choice.track == NOBODY else min(0.4, 1 - choice.probability) if known else 0.2
    found = [others] * count
    if choice.track != NOBODY and choice.track < count:
        found[choice.track] = choice.probability if known else 0.8
    length = max(float(utterance.end or 0.0) - float(utterance.start or 0.0), 1e-3)
    if turns is not None and key in turns:
        for span in rows_to_spans(turns.sequence(key)):
            if span.track != choice.track and span.track < count:  # it says some of the line
                found[span.track] = min(
                    0.5, max(found[span.track], span.probability * (span.end - span.start) / length)
                )
    return found


def _told(lines: Sequence[SpokenLine], linked: LinkedPersons, voices: bool) -> list[str]:
    """How sure it is, in a sentence."""
    found = [person for line, person in zip(lines, linked.lines, strict=True) if line.name is None and person]
    silent = sum(line.name is None for line in lines) - len(found)
    how = "voice and face" if voices and any(line.faces for line in lines) else "voice" if voices else "face"
    notes = []
    if found:
        sure, names = [person.confidence for person in found], {person.name for person in found}
        doubtful = sum(value < _DOUBTFUL for value in sure)
        notes.append(
            f"{len(found)} lines without a name are by {len(names)} people ({', '.join(sorted(names)[:6])}"
            f"{', ...' if len(names) > 6 else ''}), linked by {how}: sure by {100 * sum(sure) / len(sure):.0f} % on "
            "average" + (f", and by less than {100 * _DOUBTFUL:.0f} % in {doubtful} lines." if doubtful else ".")
        )
    if silent:
        notes.append(f"{silent} lines without a name have neither voice nor face to tell who speaks: {UNKNOWN!r}.")
    return notes


def _by_key(conversation: Conversation, linked: LinkedPersons, notes: Sequence[str]) -> FilmPersons:
    lines = {key: person for key, person in zip(conversation.keys, linked.lines, strict=True) if person is not None}
    return FilmPersons(lines, dict(zip(conversation.keys, linked.faces, strict=True)), list(notes))


def _digest(
    conversation: Conversation, stores: Mapping[str, FeatureStore], voice: VoiceModel | None, linker: PersonLinker
) -> str:
    """What decides the result."""
    files = [Path(path) for path in sorted({u.video.path for u in conversation.utterances if u.video is not None})]
    basis: list[Any] = [
        [asdict(utterance) for utterance in conversation.utterances],
        {kind: store.digest for kind, store in stores.items()},
        None if voice is None else voice.provenance(),
        asdict(linker),
        [(file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None for file in files],
    ]
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def _save(file: Path, basis: str, conversation: Conversation, found: FilmPersons) -> None:
    rows = [
        {
            "person": None if (person := found.lines.get(key)) is None else asdict(person),
            "faces": [asdict(face) for face in found.faces[key]],
        }
        for key in conversation.keys
    ]
    write_json(
        file, {"format": "merc.FilmPersons", "version": 1, "of": basis, "notes": list(found.notes), "lines": rows}
    )


def _load(file: Path, basis: str, conversation: Conversation) -> FilmPersons | None:
    """What was found before for the same question, if the file has it."""
    try:
        data = parse_json(file.read_bytes())
        if (data["format"], data["version"], data["of"]) != ("merc.FilmPersons", 1, basis):
            return None
        lines = [None if row["person"] is None else Person(**row["person"]) for row in data["lines"]]
        faces = [[Person(**face) for face in row["faces"]] for row in data["lines"]]
        return _by_key(conversation, LinkedPersons(lines, faces, []), data["notes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
