"""Speech-like sound and the mouth that makes it: one sequence of phones drives a formant synthesiser and the lips.

The sound is made from a source and a filter (Fant, Acoustic Theory of Speech Production, 1960; Klatt, J. Acoust. Soc.
Am. 67, 1980). Lips and jaw follow their targets by dominance: every phone pulls with its own weight over its own time
(Cohen and Massaro, Modeling Coarticulation in Synthetic Visual Speech, 1993), so that a mouth is under way to a vowel
before it sounds, and a closure is reached whatever its neighbours are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve

from merc.corpora.rendered.arrays import Floats, floats
from merc.media.rates import SAMPLE_RATE

Response = Callable[["Speech", Floats, Floats], NDArray[Any]]

_RATE = 200
"""Steps per second at which phones become targets."""


@dataclass(frozen=True)
class Phone:
    """What a speech sound asks of the vocal tract.

    Args:
        formants: Frequencies of three formants in Hz.
        voice: Amplitude of the voice, 0..1.
        noise: Amplitude of frication or burst, 0..1.
        colour: Centre of that noise in Hz.
        jaw: Drop of the jaw, 0..1.
        gap: Opening of the lips, 0..1; below 0 they are pressed together.
        width: Lips from -1, rounded, to 1, spread.
        pull: Weight with which lips and jaw are drawn to their targets.
        seconds: Usual duration.
        stop: Whether the noise is a burst after a silence.
    """

    formants: tuple[float, float, float]
    voice: float
    noise: float
    colour: float
    jaw: float
    gap: float
    width: float
    pull: float
    seconds: float
    stop: bool = False


VOWELS: Mapping[str, Phone] = {
    "a": Phone((760, 1250, 2550), 1.0, 0, 0, 0.85, 0.9, 0.1, 1.0, 0.14),
    "æ": Phone((680, 1750, 2500), 0.95, 0, 0, 0.75, 0.75, 0.6, 1.0, 0.13),
    "e": Phone((500, 1850, 2550), 0.9, 0, 0, 0.45, 0.5, 0.6, 1.0, 0.11),
    "i": Phone((300, 2250, 3000), 0.75, 0, 0, 0.2, 0.3, 0.95, 1.0, 0.11),
    "ə": Phone((500, 1450, 2450), 0.75, 0, 0, 0.3, 0.35, 0.0, 0.6, 0.07),
    "ɔ": Phone((610, 930, 2450), 0.95, 0, 0, 0.65, 0.65, -0.6, 1.0, 0.14),
    "o": Phone((460, 850, 2400), 0.9, 0, 0, 0.45, 0.45, -0.85, 1.1, 0.13),
    "u": Phone((320, 830, 2250), 0.75, 0, 0, 0.2, 0.25, -1.0, 1.2, 0.12),
}
"""Vowels by name."""

CONSONANTS: Mapping[str, Phone] = {
    "m": Phone((260, 1050, 2200), 0.3, 0, 0, 0.12, -0.25, 0.0, 5.0, 0.08),
    "b": Phone((250, 900, 2200), 0.1, 0.1, 900, 0.12, -0.25, 0.0, 6.0, 0.075, True),
    "p": Phone((250, 900, 2200), 0.0, 0.25, 1100, 0.12, -0.25, 0.0, 6.0, 0.085, True),
    "f": Phone((350, 1100, 2300), 0.0, 0.2, 4500, 0.08, -0.02, 0.1, 4.0, 0.09),
    "v": Phone((300, 1100, 2300), 0.3, 0.1, 4500, 0.08, -0.02, 0.1, 4.0, 0.07),
    "w": Phone((300, 680, 2200), 0.5, 0, 0, 0.15, 0.1, -1.0, 2.5, 0.08),
    "s": Phone((350, 1700, 2600), 0.0, 0.35, 6200, 0.08, 0.2, 0.4, 2.0, 0.1),
    "ʃ": Phone((350, 1900, 2600), 0.0, 0.45, 3300, 0.12, 0.3, -0.7, 2.0, 0.1),
    "t": Phone((350, 1750, 2700), 0.0, 0.3, 4500, 0.12, 0.22, 0.1, 1.2, 0.07, True),
    "d": Phone((300, 1700, 2650), 0.15, 0.15, 4000, 0.15, 0.22, 0.1, 1.2, 0.06, True),
    "k": Phone((350, 1900, 2500), 0.0, 0.3, 2200, 0.22, 0.3, 0.0, 0.6, 0.08, True),
    "g": Phone((300, 1900, 2500), 0.15, 0.15, 2000, 0.22, 0.3, 0.0, 0.6, 0.06, True),
    "n": Phone((280, 1600, 2500), 0.35, 0, 0, 0.15, 0.25, 0.1, 0.8, 0.065),
    "l": Phone((360, 1250, 2700), 0.55, 0, 0, 0.3, 0.35, 0.1, 0.8, 0.065),
    "r": Phone((340, 1150, 1650), 0.55, 0, 0, 0.2, 0.28, -0.5, 1.2, 0.07),
    "h": Phone((500, 1500, 2500), 0.1, 0.2, 1600, 0.35, 0.4, 0.0, 0.3, 0.05),
}
"""Consonants by name."""

_PAUSE = Phone((500, 1500, 2500), 0.0, 0.0, 0, 0.05, 0.0, 0.0, 1.0, 0.2)
_COMMON = np.array([3, 2, 2, 1, 1.5, 2, 3, 1, 3, 2, 2, 1, 3, 2, 2, 1])  # of the consonants, roughly as in English


@dataclass(frozen=True)
class Voice:
    """What tells a voice, and the manner of a mouth, from others.

    Args:
        pitch: Usual pitch in Hz.
        tract: Factor of all formants; long vocal tracts have less than 1.
        breath: Amplitude of breath in the voice, 0..1.
        rate: Factor of the tempo.
        loudness: Gain in dB.
        movement: Factor of the movements of lips and jaw.
        lead: Seconds by which the mouth is ahead of the sound.
    """

    pitch: float
    tract: float
    breath: float
    rate: float
    loudness: float
    movement: float
    lead: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """A voice by chance."""
        high = rng.random() < 0.5
        return cls(
            pitch=float((205 if high else 118) * np.exp(rng.normal(0, 0.13))),
            tract=float((1.08 if high else 0.96) * np.exp(rng.normal(0, 0.04))),
            breath=float(rng.uniform(0.02, 0.12)),
            rate=float(np.exp(rng.normal(0, 0.1))),
            loudness=float(rng.normal(0, 2)),
            movement=float(rng.uniform(0.65, 1.15)),
            lead=float(rng.normal(0.03, 0.02)),
        )


@dataclass(frozen=True)
class Manner:
    """How an emotion, or a mood, changes a voice; see :func:`speak`.

    Args:
        pitch: Factor of the pitch.
        melody: Factor of the range of the pitch.
        rate: Factor of the tempo.
        loudness: Gain in dB.
        tension: Slope of the spectrum, -1 soft .. 1 pressed.
        tremor: Irregularity of pitch and loudness, 0..1.
    """

    pitch: float = 1.0
    melody: float = 1.0
    rate: float = 1.0
    loudness: float = 0.0
    tension: float = 0.0
    tremor: float = 0.1

    def towards(self, other: Manner, share: float) -> Manner:
        """A manner between this one (share 0) and another (share 1)."""
        mixed = {name: value + share * (getattr(other, name) - value) for name, value in vars(self).items()}
        return Manner(**mixed)


@dataclass(frozen=True, eq=False)
class Speech:
    """An utterance before it sounds: tracks of the vocal tract at 200 steps per second, and of lips and jaw.

    Args:
        formants: ``(T, 3)`` in Hz.
        voiced: ``(T,)``, amplitude of the voice.
        noise: ``(T,)``, amplitude of the noise.
        colour: ``(T,)``, centre of the noise in Hz.
        pitch: ``(T,)`` in Hz.
        gap: ``(T,)``, opening of the lips; negative if pressed.
        jaw: ``(T,)``.
        width: ``(T,)``.
        voice: Whose speech it is.
        manner: In what manner.
    """

    formants: Floats
    voiced: Floats
    noise: Floats
    colour: Floats
    pitch: Floats
    gap: Floats
    jaw: Floats
    width: Floats
    voice: Voice
    manner: Manner

    def mouth(self, times: Floats) -> tuple[Floats, Floats, Floats]:
        """Gap, jaw and width at ``times`` in seconds."""
        steps = np.arange(len(self.gap)) / _RATE
        at = times + self.voice.lead
        gap, jaw, width = (floats(np.interp(at, steps, track)) for track in (self.gap, self.jaw, self.width))
        return gap, jaw, width


def speak(voice: Voice, manner: Manner, seconds: float, rng: np.random.Generator) -> Speech:
    """Say something that no one understands.

    Args:
        voice: Who speaks.
        manner: In what manner.
        seconds: Duration; speech begins and ends a moment inside it.
        rng: Source of the phones and of all variation.
    """
    steps = int(seconds * _RATE)
    phones, lengths, stress = _phones(voice, manner, seconds, rng)
    edges = np.minimum(np.round(np.cumsum([0.0, *lengths]) * _RATE).astype(int), steps)
    edges[-1] = steps
    index = np.repeat(np.arange(len(phones)), np.diff(edges))

    formants = floats([p.formants for p in phones])[index] * voice.tract
    force = stress * np.exp(rng.normal(0, 0.3, len(phones)))
    voiced = floats([p.voice for p in phones])[index] * force[index]
    noise = floats([p.noise for p in phones])[index] * (0.5 + 0.5 * stress[index])
    colour = floats([p.colour or 2500 for p in phones])[index]
    for phone, start, end in zip(phones, edges[:-1], edges[1:], strict=True):
        if phone.stop:
            noise[start : start + int(0.65 * (end - start))] = 0
    t = np.arange(steps) / _RATE
    accents = gaussian_filter1d((stress[index] - 0.75) * (voiced > 0.5), 0.06 * _RATE)
    drift = gaussian_filter1d(rng.normal(size=steps), 0.05 * _RATE) * manner.tremor
    melody = manner.melody * (0.12 - 0.22 * t / seconds + 0.9 * accents)
    pitch = voice.pitch * manner.pitch * np.exp(melody + 0.35 * drift)
    return Speech(
        formants=gaussian_filter1d(formants, 0.012 * _RATE, axis=0),
        voiced=floats(gaussian_filter1d(voiced, 0.009 * _RATE) * np.exp(1.5 * drift)),
        noise=gaussian_filter1d(noise, 0.005 * _RATE),
        colour=gaussian_filter1d(colour, 0.005 * _RATE),
        pitch=floats(np.clip(pitch, 55, 600)),
        **_articulate(phones, index, stress, voice, manner, rng),
        voice=voice,
        manner=manner,
    )


def utter(speech: Speech, samples: int, rng: np.random.Generator) -> Floats:
    """The sound of an utterance, ``(samples,)`` at 16 kHz, at about -23 dB below full scale times its loudness."""
    steps = np.arange(len(speech.pitch)) / _RATE
    at = np.arange(samples) / SAMPLE_RATE
    pitch = np.interp(at, steps, speech.pitch)
    turns = np.cumsum(pitch * (1 + 0.01 * speech.manner.tremor * rng.normal(size=samples))) / SAMPLE_RATE
    pulses = np.diff(np.floor(turns), prepend=0.0) * np.sqrt(SAMPLE_RATE / pitch)
    hiss = rng.normal(size=samples)
    voiced = np.interp(at, steps, speech.voiced)
    source = voiced * (pulses + (speech.voice.breath - 0.03 * speech.manner.tension) * hiss * 3)
    friction = np.interp(at, steps, speech.noise) * hiss
    sound = _filter(source, speech, steps, _tract) + 2.0 * _filter(friction, speech, steps, _constriction)
    level = 10 ** ((-23 + speech.voice.loudness + speech.manner.loudness) / 20)
    return floats(sound * level / max(float(np.sqrt(np.mean(sound**2))), 1e-6))


def in_room(sound: Floats, rng: np.random.Generator) -> Floats:
    """The sound with a little reverberation and the noise of a room, within -1..1."""
    length = int(SAMPLE_RATE * rng.uniform(0.1, 0.35))
    decay = np.exp(-6.9 * np.arange(length) / length)
    echo = rng.normal(size=length) * decay * rng.uniform(0.01, 0.05)
    echo[0] = 1.0
    wet = fftconvolve(sound, echo)[: len(sound)]
    spectrum = np.fft.rfft(rng.normal(size=len(sound)))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), 40))
    noise = np.fft.irfft(spectrum, len(sound))
    noise *= 10 ** (rng.uniform(-58, -42) / 20) / np.sqrt(np.mean(noise**2))
    hum = 10 ** (rng.uniform(-70, -52) / 20) * np.sin(2 * np.pi * 50 * np.arange(len(sound)) / SAMPLE_RATE)
    return floats(np.tanh(wet + noise + hum))


def _phones(
    voice: Voice, manner: Manner, seconds: float, rng: np.random.Generator
) -> tuple[list[Phone], list[float], Floats]:
    """Phones that fill ``seconds``, with durations and stress."""
    vowels, consonants = list(VOWELS.values()), list(CONSONANTS.values())
    common = _COMMON / _COMMON.sum()
    rate = voice.rate * manner.rate
    begin, finish = np.minimum(rng.uniform((0.05, 0.08), (0.2, 0.25)), 0.2 * seconds).tolist()
    phones, lengths, stress = [_PAUSE], [begin], [0.0]
    now, until = begin, seconds - finish
    while now < until:
        for _ in range(rng.integers(2, 8)):  # syllables up to the next pause
            weight = float(rng.uniform(0.55, 1.0))
            syllable = []
            if rng.random() < 0.85:
                syllable.append(consonants[rng.choice(len(consonants), p=common)])
            syllable.append(vowels[rng.integers(len(vowels))])
            if rng.random() < 0.3:
                syllable.append(consonants[rng.choice(len(consonants), p=common)])
            for phone in syllable:
                length = phone.seconds * (0.7 + 0.5 * weight) * float(np.exp(rng.normal(0, 0.15))) / rate
                phones.append(phone)
                lengths.append(length)
                stress.append(weight)
                now += length
            if now >= until:
                break
        else:
            pause = float(rng.uniform(0.1, 0.3)) / rate
            phones.append(_PAUSE)
            lengths.append(pause)
            stress.append(0.0)
            now += pause
    fit = (until - begin) / (now - begin)
    return [*phones, _PAUSE], [begin, *(fit * length for length in lengths[1:]), finish], floats([*stress, 0.0])


def _articulate(
    phones: list[Phone],
    index: NDArray[np.int64],
    stress: Floats,
    voice: Voice,
    manner: Manner,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    # Mouths are looser than sounds: no one opens twice the same for a vowel, and lips stay ajar in many a pause.
    loose = np.exp(rng.normal(0, 0.3, len(phones)))
    size = voice.movement * (0.85 + 0.25 * stress) * (1 + 0.025 * manner.loudness) * loose
    ajar = np.array([phone is _PAUSE for phone in phones]) * np.maximum(rng.uniform(-0.25, 0.35, len(phones)), 0)
    pull = floats([p.pull for p in phones])[index]

    def follow(targets: Floats, weight: Floats, seconds: float) -> Floats:
        spread = seconds * _RATE
        track: Floats = gaussian_filter1d(targets * weight, spread) / gaussian_filter1d(weight, spread)
        noise = gaussian_filter1d(rng.normal(size=len(index)), 0.07 * _RATE)
        return floats(track + 0.05 * noise / max(float(noise.std()), 1e-6))

    gap = floats([p.gap for p in phones])
    gap = np.where(gap > 0, gap * size, gap) + ajar
    jaw = floats([p.jaw for p in phones]) * size + ajar
    width = floats([p.width for p in phones]) * min(voice.movement, 1.0) * loose
    return {
        "gap": follow(gap[index], pull, 0.032),
        "jaw": follow(jaw[index], np.sqrt(pull), 0.05),
        "width": follow(width[index], np.ones_like(pull), 0.05),
    }


_HOP = 64
_WINDOW, _FFT = 4 * _HOP, 8 * _HOP


def _filter(source: Floats, speech: Speech, steps: Floats, response: Response) -> Floats:
    """Filter by a response that changes in time: windowed frames, each by its own, overlapped and added."""
    frames = len(source) // _HOP + 5
    padded = np.pad(source, (_WINDOW, frames * _HOP + _WINDOW - len(source)))
    window = np.hanning(_WINDOW + 1)[:-1] / 2
    starts = np.arange(frames) * _HOP
    blocks = padded[starts[:, None] + np.arange(_WINDOW)] * window
    middles = (starts - _WINDOW / 2) / SAMPLE_RATE
    spectra = np.fft.rfft(blocks, _FFT) * response(speech, steps, middles)
    pieces = np.fft.irfft(spectra, _FFT).reshape(frames, _FFT // _HOP, _HOP)
    out = np.zeros((frames + _FFT // _HOP, _HOP))
    for shift in range(_FFT // _HOP):
        out[shift : shift + frames] += pieces[:, shift]
    return out.ravel()[_WINDOW : _WINDOW + len(source)]


def _tract(speech: Speech, steps: Floats, times: Floats) -> NDArray[np.complex128]:
    """The response of three moving and two fixed resonances, with the slope of the glottal pulse, frame by bin."""
    frequency = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    z = np.exp(-2j * np.pi * frequency / SAMPLE_RATE)
    total = (1 - z) / (1 - (0.97 - 0.06 * (1 + speech.manner.tension)) * z) ** 2
    total = np.broadcast_to(total, (len(times), len(z))).copy()
    centres = [np.interp(times, steps, speech.formants[:, k]) for k in range(3)]
    centres += [np.full(len(times), f * speech.voice.tract) for f in (3500.0, 4500.0)]
    for centre, bandwidth in zip(centres, (70.0, 100.0, 140.0, 220.0, 300.0), strict=True):
        r = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        cosine = np.cos(2 * np.pi * centre / SAMPLE_RATE)[:, None]
        gain = 1 - 2 * r * cosine + r * r
        total *= gain / (1 - 2 * r * cosine * z + r * r * z * z)
    return total


def _constriction(speech: Speech, steps: Floats, times: Floats) -> Floats:
    """The colour of frication: a broad band around its centre."""
    frequency = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    centre = np.interp(times, steps, speech.colour)[:, None]
    band: Floats = np.exp(-0.5 * ((frequency - centre) / (0.28 * centre)) ** 2)
    return band
