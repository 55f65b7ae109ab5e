"""The choice by likelihood: the equations of its docstring in plain loops, and what they must mean."""

import math

import pytest
import torch

from merc.speaker import NOBODY, LikelihoodScorer, LipSyncNet, MouthTrack, PooledLipSyncNet, Traces, add_opinion
from merc.speaker.likelihood import log_ratio
from support.read_off import ReadOff, heard, like, mouths, signal
from support.tiny_lips import talk


def correlation(a, b):
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return float((a * b).sum() / (a.norm() * b.norm()))


def normal(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def slow_evidence(lips, sound, first, mean, deviation, max_lag=7, gap=12, lag=2.5):
    """The equations, frame by frame."""
    frames, length = lips.shape[1], sound.shape[1]
    r, counts = {}, {}
    for k in range(-length - frames, length + frames):
        pairs = [(t, first + t + k) for t in range(frames) if 0 <= first + t + k < length]
        enough = 2 if abs(k) <= max_lag else max(12, frames // 3)
        if len(pairs) >= enough and (abs(k) <= max_lag or abs(k) > gap):
            x, y = [list(side) for side in zip(*pairs, strict=True)]
            r[k], counts[k] = correlation(lips[:, x], sound[:, y]), len(pairs)
    t = max(counts.values())
    far = [k for k in r if abs(k) > gap]
    prior = 0.1**2 * 75 / t
    square = (8 * prior + sum(counts[k] / t * r[k] ** 2 / 12 for k in far)) / (8 + len(far) / 12)
    near = [k for k in r if abs(k) <= max_lag]
    weights = {k: math.exp(-(k**2) / (2 * lag**2)) for k in near}
    total = 0.0
    for k in near:
        null = square * t / counts[k]
        x = max(r[k], -mean * null / deviation**2)
        total += weights[k] * normal(min(x, mean), mean, deviation**2 + null) / normal(x, 0, null)
    return math.log(total / sum(weights.values()))


@pytest.mark.parametrize(
    ("frames", "first", "length"), [(40, 0, 40), (30, 8, 60), (30, 20, 44), (12, 0, 13), (8, 0, 9)]
)
@pytest.mark.parametrize("fits", [0.0, 0.6])
def test_scores_are_those_of_the_equations(frames, first, length, fits):
    sound = signal(1, length)
    part = sound[:, first : first + frames]
    lips = signal(2, frames)
    lips[:, : part.shape[1]] = like(part, fits, 3)
    scorer, calibration = LikelihoodScorer(), torch.tensor([0.4, 0.15])
    found = scorer.evidence(lips[None], sound, first, calibration)
    assert found.item() == pytest.approx(slow_evidence(lips, sound, first, 0.4, 0.15), abs=1e-3)


def test_a_score_adds_whether_the_lips_move_and_a_track_is_cut_where_the_sound_ends():
    scorer, net = LikelihoodScorer(activity=0.5), ReadOff()
    sound = signal(1, 50)
    tracks = [mouths(signal(2, 40), 5, odds=-1.0), mouths(signal(3, 60), 20, odds=-3.9)]
    found = scorer.choose(net, tracks, heard(sound))
    mean, deviation = scorer.uncalibrated().tolist()
    for track, score, odds in zip(tracks, found.scores, (-1.0, math.log(0.05 / 0.95)), strict=True):
        shown = (track.crops[: 50 - track.first, 0].float().T - 128) / 32
        moving = 0.5 * math.log(1 / (1 + math.exp(-odds)))  # of at least 5 %
        expected = slow_evidence(shown, sound, track.first, mean, deviation) + moving
        assert score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("late", [-6, 0, 4])
@pytest.mark.parametrize("first", [0, 9])
def test_a_late_sound_is_found_at_a_positive_lag(late, first):
    voice = signal(4, 90)
    lips = voice[:, 10 + first : 60 + first]
    sound = voice[:, 10 - late : 70 - late]  # what the lips do at frame t is heard at t + late
    scorer = LikelihoodScorer()
    found, shifts, counts = scorer.correlations(lips, sound, first)
    assert int(shifts[found[0].argmax()]) == late
    assert float(found[0, shifts == late]) == pytest.approx(1, abs=1e-5)
    assert float(counts[shifts == late]) == min(50, 60 - first - late) - max(0, -first - late)


def test_lags_beyond_the_largest_are_chance():
    voice = signal(4, 120)
    scorer, net = LikelihoodScorer(), ReadOff()
    near, far = (scorer.choose(net, [mouths(voice[:, 20:95])], heard(voice[:, 20 - k : 95 - k])) for k in (7, 8))
    assert near.track == 0 and far.track == NOBODY


def test_at_most_200_shifts_spread_over_all_of_a_long_clip():
    _, shifts, counts = LikelihoodScorer().correlations(signal(1, 500), signal(2, 500), 0)
    far = shifts[shifts.abs() > 12]
    assert 150 < len(far) <= 200 and far.min() < -300 and far.max() > 300
    assert counts.min() >= 500 // 3


def test_the_less_lips_fit_the_less_they_are_the_speakers():
    r = torch.linspace(-1, 1, 201)
    for chance in (0.03, 0.05, 0.1, 0.3):
        ratio = log_ratio(r, chance, torch.tensor([0.33, 0.1]))
        assert (ratio.diff() >= -1e-5).all() and ratio[0] < 0 < ratio[-1]


def test_probabilities_are_those_of_bayes_and_sum_to_1():
    net, scorer, voice = ReadOff(), LikelihoodScorer(visible=0.7), signal(1, 75)
    tracks = [mouths(like(voice, 0.3, 2)), mouths(signal(3, 75)), mouths(like(voice, 0.25, 4))]
    found = scorer.choose(net, tracks, heard(voice))
    weights = [0.3, *(0.7 / 3 * math.exp(score) for score in found.scores)]
    shares = [weight / sum(weights) for weight in weights]
    assert found.track == 0
    assert found.probability == pytest.approx(shares[1], abs=1e-4) and 0.3 < shares[1] < 0.99
    assert found.margin == pytest.approx(math.log(shares[1] / max(shares[0], *shares[2:])), abs=1e-4)
    assert found.activity == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-4)
    alone = scorer.choose(net, tracks[1:2], heard(voice))
    assert alone.track == NOBODY
    assert alone.probability == pytest.approx(0.3 / (0.3 + 0.7 * math.exp(alone.scores[0])), abs=1e-4)


def test_an_opinion_is_added_to_the_score_of_its_track():
    net, scorer, voice = ReadOff(), LikelihoodScorer(), signal(1, 75)
    tracks = [mouths(like(voice, 0.3, 2)), mouths(like(voice, 0.25, 4)), mouths(signal(5, 5))]
    alone = scorer.choose(net, tracks, heard(voice))
    opinion = add_opinion(torch.zeros(3, 1), torch.tensor([[-20.0], [20.0], [20.0]]), weight=5.0)[:, 0]
    found = scorer.choose(net, tracks, heard(voice), opinion=opinion)
    assert (alone.track, found.track) == (0, 1)
    assert found.scores[:2] == pytest.approx([alone.scores[0] - 5, alone.scores[1] + 5], abs=1e-4)
    assert found.scores[2] == float("-inf")  # too short for any
    assert scorer.choose(net, tracks, heard(voice), opinion=torch.zeros(3)) == alone
    with pytest.raises(ValueError, match="an opinion on each of 3 tracks, got the shape"):
        scorer.choose(net, tracks, heard(voice), opinion=torch.zeros(2))


def test_scores_of_a_face_do_not_depend_on_the_others():
    net, scorer, voice = ReadOff(), LikelihoodScorer(), signal(1, 60)
    tracks = [mouths(like(voice, 0.5, 2)), mouths(signal(3, 30), 20), mouths(signal(4, 80), 10)]
    together = scorer.choose(net, tracks, heard(voice)).scores
    assert list(together) == [scorer.choose(net, [track], heard(voice)).scores[0] for track in tracks]


def test_longer_clips_say_more():
    net, scorer = ReadOff(), LikelihoodScorer()
    own, foreign = [], []
    for frames in (25, 75, 225):
        voices = [signal(seed, frames) for seed in range(4)]
        own.append([scorer.choose(net, [mouths(like(v, 0.4, 50))], heard(v)).scores[0] for v in voices])
        foreign.append([scorer.choose(net, [mouths(signal(60, frames))], heard(v)).scores[0] for v in voices])
    own, foreign = torch.tensor(own).mean(1), torch.tensor(foreign).mean(1)
    assert own[0] < own[1] < own[2] and own[0] > 0
    assert foreign[0] > foreign[1] > foreign[2] and foreign[0] < 0


def test_chance_is_larger_where_the_clip_shows_that_it_is():
    scorer = LikelihoodScorer()

    def chance(smooth):
        found = [
            scorer.chance(*scorer.correlations(signal(s, 100, smooth), signal(s + 50, 100, smooth), 0))
            for s in range(5)
        ]
        return float(torch.cat(found).mean())

    assert chance(0.95) > 1.5 * chance(0.0)


def test_without_enough_shifts_chance_is_the_usual_one_of_that_length():
    scorer = LikelihoodScorer()
    for frames in (12, 20):
        found = scorer.chance(*scorer.correlations(signal(1, frames), signal(2, frames), 0))
        assert found.item() == pytest.approx(0.1 * math.sqrt(75 / frames))


def test_a_sure_fit_under_slow_signals_is_no_proof():
    # What moves slowly correlates by chance: the same correlation counts for less.
    net, scorer = ReadOff(), LikelihoodScorer()
    scores = []
    for smooth in (0.0, 0.97):
        voices = [signal(seed, 100, smooth) for seed in range(6)]
        fits = [0.35 * v + math.sqrt(1 - 0.35**2) * signal(90 + i, 100, smooth) for i, v in enumerate(voices)]
        pairs = zip(voices, fits, strict=True)
        scores.append(sum(scorer.choose(net, [mouths(lips)], heard(v)).scores[0] for v, lips in pairs) / 6)
    assert scores[0] > scores[1] + 1


@pytest.mark.parametrize("case", ["silent", "frozen"])
def test_silence_and_frozen_lips_speak_for_nobody(case):
    net, scorer, voice = ReadOff(), LikelihoodScorer(), signal(1, 75)
    sound = torch.full((300, 80), -11.5) if case == "silent" else heard(voice)
    lips = torch.zeros(4, 75) if case == "frozen" else voice
    found = scorer.choose(net, [mouths(lips)], sound)
    assert found.track == NOBODY and found.probability > 0.5
    assert math.isfinite(found.scores[0]) and found.scores[0] < scorer.nobody(scorer.uncalibrated())


def test_tracks_that_show_too_little_are_not_scored():
    net, scorer, sound = ReadOff(), LikelihoodScorer(), heard(signal(1, 40))
    voice = signal(1, 40)
    tracks = [mouths(voice[:, :11]), mouths(voice[:, 29:], 29), mouths(signal(2, 30), 41), mouths(voice[:, :12])]
    found = scorer.choose(net, tracks, sound)
    assert [math.isfinite(score) for score in found.scores] == [False, False, False, True]
    assert found.track == 3 and found.coverage == pytest.approx(12 / 40)
    only = scorer.choose(net, tracks[:3], sound)
    assert (only.track, only.score, only.probability, only.coverage) == (NOBODY, -math.inf, 1.0, 0.0)
    assert only.to_row().isfinite().all()


def test_a_clip_shorter_than_that_is_scored_as_a_whole_and_says_little():
    net, scorer, voice = ReadOff(), LikelihoodScorer(), signal(1, 6)
    found = scorer.choose(net, [mouths(voice), mouths(voice[:, :5])], heard(voice))
    assert found.track == 0 and found.scores[1] == -math.inf
    foreign = scorer.choose(net, [mouths(signal(2, 6))], heard(voice))
    assert foreign.track == 0 and 0.5 < foreign.probability < 0.95


@pytest.mark.parametrize("rows", [0, 3, 4, 7])
def test_a_sound_of_one_frame_says_nothing(rows):
    found = LikelihoodScorer().choose(ReadOff(), [mouths(signal(1, 1))], torch.zeros(rows, 80))
    assert found.track == NOBODY and found.scores == (-math.inf,)


def test_without_tracks_nobody_speaks():
    found = LikelihoodScorer().choose(ReadOff(), [], torch.zeros(100, 80))
    assert (found.track, found.probability, found.scores) == (NOBODY, 1.0, ())


def test_pairs_are_the_scores_of_every_face_under_every_sound():
    net, scorer = ReadOff(), LikelihoodScorer()
    calibration = torch.tensor([0.5, 0.2])
    clips = [(mouths(like(signal(s, 40), 0.6, 30 + s), 3, odds=s - 1.0), heard(signal(s, 50))) for s in range(3)]
    trials = [scorer.trial(net, track, sound, 40) for track, sound in clips]
    scores, still = scorer.pairs(trials, calibration)
    for i, (own, sound) in enumerate(clips):
        part = sound[12:172]
        for j, (track, _) in enumerate(clips):
            found = scorer.choose(net, [MouthTrack(0, track.crops)], part, calibration)
            assert scores[i, j].item() == pytest.approx(found.scores[0], abs=1e-4)
        frozen = MouthTrack(0, own.crops[20].expand(40, -1, -1))
        assert still[i].item() == pytest.approx(scorer.choose(net, [frozen], part, calibration).scores[0], abs=1e-4)
    assert scorer.trial(net, clips[0][0], clips[0][1], 41) is None
    assert scorer.trial(net, clips[0][0], clips[0][1][:160], 40) is None  # the sound ends three frames early


def trial(correlation, seed):
    lips = signal(seed, 75)
    return Traces(lips, like(lips, correlation, seed + 1000), 0.0, torch.empty(0))


def test_calibration_recovers_mean_and_deviation_and_ignores_a_few_listeners():
    drawn = torch.linspace(0.02, 0.98, 40).erfinv() * 0.15 * math.sqrt(2)  # quantiles of the right half
    speakers = [trial(0.5 + sign * float(r), seed) for seed, r in enumerate(drawn[::2]) for sign in (-1, 1)]
    listeners = [trial(0.0, 500 + seed) for seed in range(3)]
    scorer = LikelihoodScorer()
    mean, deviation = scorer.calibrated(speakers).tolist()
    assert mean == pytest.approx(0.5, abs=0.04) and deviation == pytest.approx(0.15, abs=0.04)
    moved = scorer.calibrated([*speakers, *listeners]).tolist()
    assert moved[0] == pytest.approx(mean, abs=0.03) and moved[1] == pytest.approx(deviation, abs=0.04)
    assert scorer.calibrated([trial(0.4, 1), trial(0.4, 2)])[1] >= 0.05  # two alike are no proof that all are


def test_pieces_give_the_traces_of_the_whole_up_to_their_own_normalisation():
    # LipSyncNet measures contrast and level by what it sees at once, so each piece has a scale and an offset of its
    # own; the shape over time is that of the whole, as every piece sees a little more than it is asked for.
    torch.manual_seed(0)
    net, scorer = LipSyncNet(size=16, width=4, hidden=16).eval(), LikelihoodScorer()
    crops, sound = talk(1, frames=160)
    lips, odds = scorer.encode_lips(net, crops)
    heard_in_pieces = scorer.encode_sound(net, sound)
    with torch.no_grad():
        whole, odds_of_whole = net.trace_video(crops[None])
        pairs = [(lips, whole[0]), (heard_in_pieces, net.trace_audio(sound[None])[0])]
    assert odds == pytest.approx(float(odds_of_whole), abs=0.05)
    for pieces, at_once in pairs:
        assert pieces.shape == at_once.shape == (8, 160)
        for part in (slice(0, 80), slice(80, 160)):
            assert correlation(pieces[:, part], at_once[:, part]) > 0.99


def test_a_network_in_half_precision_scores_alike():
    torch.manual_seed(0)
    net, scorer = LipSyncNet(size=16, width=4, hidden=16).eval(), LikelihoodScorer()
    crops, sound = talk(1, frames=60)
    tracks = [MouthTrack(0, crops), MouthTrack(10, talk(2, frames=30)[0])]
    full = scorer.choose(net, tracks, sound)
    half = scorer.choose(net.to(torch.bfloat16), tracks, sound)
    assert half.scores == pytest.approx(full.scores, abs=0.3)
    assert half.to_row().dtype == torch.float32


def test_what_keeps_no_time_axis_and_options_out_of_range_are_refused():
    with pytest.raises(TypeError, match="which PooledLipSyncNet does not have: use"):
        LikelihoodScorer().choose(PooledLipSyncNet(size=16, width=2), [mouths(signal(1, 20))], torch.zeros(80, 80))
    with pytest.raises(ValueError, match=r"visible is 1, expected a probability between 0 and 1"):
        LikelihoodScorer(visible=1)
    for options in ({"max_lag": 13}, {"lag": 0}, {"max_lag": -1}):
        with pytest.raises(ValueError, match="expected max_lag from 0 to gap, and lag above 0"):
            LikelihoodScorer(**options)
