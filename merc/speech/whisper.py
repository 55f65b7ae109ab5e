"""Speech recognition by any Whisper model, in windows that begin and end where nobody speaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from logging import ERROR
from pathlib import Path
from typing import Any

import torch

from merc.conversation import Clip
from merc.corpora.transcripts import Line, Word
from merc.corpora.transcripts.lines import lines_of_words
from merc.media.decode import probe
from merc.media.rates import SAMPLE_RATE
from merc.media.sound import read_sound
from merc.speech.activity import VoiceActivity
from merc.speech.base import Progress, Transcript

_WINDOW = 29.0
"""Seconds that Whisper reads at once, a little less than the 30 that its input has room for."""

_TOKENS = 440  # that a window can give, of the 448 positions of the decoder


class WhisperTranscriber:
    """Transcribes with any Whisper model of transformers (Radford et al. 2022, arXiv 2212.04356).

    The voice detector finds speech first. Utterances are put together into windows of at most 29 seconds, which
    Whisper reads in batches: it does not hear silence, in which it invents sentences, and memory does not grow with the
    recording. Words get their times from the attention of the decoder to the sound, where the model's generation config
    names the heads that show it (``alignment_heads``; all models of OpenAI do), else lines have those of Whisper's
    segments. Lines end with a sentence, at a pause of 0.8 s, and at the end of a window.

    Args:
        model: Name on the Hugging Face hub, such as ``openai/whisper-small``, or a local folder, which needs no
            network.
        language: Code of the language, such as ``en``. Default: detected in every window; the transcript has the
            most frequent one.
        batch_size: Windows at once.
        device: Device of the network.
        activity: Finds speech.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: It is no Whisper model.

    Example:
        >>> transcript = WhisperTranscriber("openai/whisper-small").transcribe("talk.mp4")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "openai/whisper-small",
        language: str | None = None,
        batch_size: int = 8,
        device: str = "cpu",
        activity: VoiceActivity | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1.")
        self.model = model
        self.language = language
        self.batch_size = batch_size
        self.device = device
        self.activity = activity or VoiceActivity()
        self._parts  # noqa: B018 - a model that is not there is refused before a film is read

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """The network and its processor."""
        from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

        folder = Path(self.model).expanduser()
        place, local = (str(folder), True) if folder.is_dir() else (self.model, False)
        try:
            kind = AutoConfig.from_pretrained(place, local_files_only=local).model_type
            if kind == "whisper":
                network = WhisperForConditionalGeneration.from_pretrained(place, local_files_only=local)
                processor = WhisperProcessor.from_pretrained(place, local_files_only=local)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"Whisper {self.model!r} could not be loaded: expected a folder with config.json, weights, tokenizer "
                f"and preprocessor_config.json, or a name on the Hugging Face hub such as 'openai/whisper-small' "
                f"({error}). Without a network, download the model elsewhere, copy it here and pass its folder."
            ) from error
        if kind != "whisper":
            raise ValueError(f"{self.model!r} is of the kind {kind!r}: expected a Whisper model.")
        loaded: Any = network  # its types do not know names of devices
        return loaded.to(self.device).eval(), processor

    def transcribe(self, media: str | Path, progress: Progress | None = None) -> Transcript:
        """The lines of a recording, with words.

        Raises:
            MediaError: The file cannot be read, or has no sound.
            ModuleNotFoundError: The voice detector is not installed.
        """
        duration = probe(media).duration
        windows = list(packed(self.activity.spans(media)))
        lines: list[Line] = []
        languages: Counter[str] = Counter()
        for at in range(0, len(windows), self.batch_size):
            some = windows[at : at + self.batch_size]
            for window, (found, language) in zip(some, self._heard(media, some), strict=True):
                lines += found
                languages[language] += round(window[1] - window[0]) + 1
            if progress is not None:
                progress(some[-1][1], duration)
        most = max(languages, key=languages.__getitem__) if languages else ""
        notes = [
            f"The words are those of {Path(self.model).name}, which nobody has checked"
            + (f"; its language is {most!r}." if most else ".")
        ]
        if windows and not self._aligns:
            notes.append(f"{Path(self.model).name} gives no times of words: lines have those of its segments.")
        return Transcript(lines, most or None, self.provenance(), notes)

    @property
    def _aligns(self) -> bool:
        return bool(getattr(self._parts[0].generation_config, "alignment_heads", None))

    @torch.inference_mode()
    def _heard(self, media: str | Path, windows: Sequence[tuple[float, float]]) -> Iterator[tuple[list[Line], str]]:
        """The lines and the language of every window."""
        network, processor = self._parts
        sounds = [read_sound(Clip(str(media), start, end)).numpy() for start, end in windows]
        inputs = processor.feature_extractor(
            sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True
        ).to(self.device, network.dtype)
        config = network.generation_config
        options: dict[str, Any] = {"return_timestamps": True, "return_dict_in_generate": True}
        languages = [""] * len(windows)
        if getattr(config, "is_multilingual", False):
            if self.language is None:
                found = network.detect_language(input_features=inputs.input_features)
                languages = [processor.tokenizer.decode(token).strip("<|>") for token in found.flatten().tolist()]
            else:
                languages = [self.language] * len(windows)
            options |= {"language": [f"<|{name}|>" for name in languages], "task": "transcribe"}
        if self._aligns:
            options["return_token_timestamps"] = True
        with _quiet():
            given = network.generate(
                input_features=inputs.input_features,
                attention_mask=inputs.attention_mask,
                max_new_tokens=min(_TOKENS, network.config.max_target_positions - 8),
                **options,
            )
        times = given.get("token_timestamps")
        for row, ((start, end), language) in enumerate(zip(windows, languages, strict=True)):
            output = {"tokens": given["sequences"][row : row + 1].cpu().numpy()}
            if times is not None:
                output["token_timestamps"] = times[row : row + 1].cpu().numpy()
            text, about = processor.tokenizer._decode_asr(
                [output],
                return_timestamps="word" if times is not None else True,
                return_language=False,
                time_precision=0.02,
            )
            yield _lines(text, about.get("chunks", []), start, end, words=times is not None), language

    def provenance(self) -> dict[str, Any]:
        """The model, the language, and how speech was found."""
        return {
            "transcriber": "WhisperTranscriber",
            "model": self.model,
            "language": self.language,
            "activity": self.activity.provenance(),
        }


def packed(spans: Sequence[tuple[float, float]], most: float = _WINDOW) -> Iterator[tuple[float, float]]:
    """Windows that hold as many neighbouring utterances as fit.

    Args:
        spans: In order of time, without overlaps.
        most: Seconds of a window; an utterance that is longer is a window by itself.
    """
    window: tuple[float, float] | None = None
    for start, end in spans:
        if window is not None and end - window[0] > most:
            yield window
            window = None
        window = (start if window is None else window[0], end)
    if window is not None:
        yield window


def _lines(text: str, chunks: Sequence[Any], start: float, end: float, *, words: bool) -> list[Line]:
    """What was decoded of a window, on the clock of the recording and within the window."""
    found, before = [], start
    for chunk in chunks:
        if chunk["text"].strip():
            first, last = chunk["timestamp"]
            # A decoder that loses its way gives times out of order.
            begin = min(max(before if first is None else start + first, before), end)
            before = min(max(end if last is None else start + last, begin), end)
            found.append(Word(chunk["text"].strip(), round(begin, 3), round(before, 3)))
    if not found:
        return [Line(start, end, text.strip())] if text.strip() else []
    if not words:
        return [Line(word.start, word.end, word.text) for word in found]
    return list(lines_of_words(found))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks of transformers about options that its own code passes on."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
