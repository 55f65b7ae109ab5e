"""Augmentation of lips and sounds: each option alone does what it says and nothing else, and both stay together."""

import math
from inspect import signature

import pytest
import torch

from merc.speaker import SyncAugmentation

NAMES = list(signature(SyncAugmentation).parameters)
OF_SOUND = {"gain", "voice", "hum", "babble", "echo", "masks"}
SIZE, FRAMES, BANDS = 24, 20, 80


def only(**given):
    """All options off but these."""
    return SyncAugmentation(**{**dict.fromkeys(NAMES, 0.0), **given})


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def windows(count=6, sounds=4):
    """Smooth mouths that differ from frame to frame, and sounds that differ everywhere."""
    rows = torch.arange(SIZE)[:, None].expand(SIZE, SIZE) / SIZE
    phase = torch.rand(count, 1, 1, 1) + torch.arange(FRAMES)[None, :, None, None] / 7
    crops = 127 + 90 * torch.sin(6 * (rows + 0.3 * rows.T) + phase)
    return crops, torch.randn(sounds, 4 * FRAMES, BANDS) - 6


def frames_differ(looks, crops):
    """Which frames an option changed, ``(windows, frames)``."""
    return (looks - crops).abs().amax((2, 3)) > 0.5


def test_without_strength_nothing_changes():
    crops, sound = windows()
    looks, other = only()(crops, sound)
    torch.testing.assert_close(looks, crops, atol=1e-2, rtol=0)
    torch.testing.assert_close(other, sound)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "drift"])
def test_an_option_alone_changes_its_side_and_only_that(name):
    crops, sound = windows()
    looks, other = only(**{name: 3.0 if name in ("noise", "voice", "hum") else 1.0 if name != "speed" else 0.25})(
        crops, sound
    )
    if name == "speed":
        assert looks.shape == (6, 16, SIZE, SIZE) and other.shape == (4, 64, BANDS)
        return
    assert frames_differ(looks, crops).any() == (name not in OF_SOUND)
    assert bool(((other - sound).abs() > 1e-3).any()) == (name in OF_SOUND)


def test_a_mirrored_mouth_is_the_mirrored_mouth():
    crops, sound = windows()
    looks, _ = only(flip=1.0)(crops, sound)
    torch.testing.assert_close(looks, crops.flip(-1), atol=1e-2, rtol=0)
    some, _ = only(flip=0.5)(crops.repeat(10, 1, 1, 1), sound)
    mirrored = frames_differ(some, crops.repeat(10, 1, 1, 1)).any(1)
    assert 15 < mirrored.sum() < 45


def centre(looks):
    """Centre of mass ``(V, T, 2)`` of mouths on black, in pixels, down and across."""
    weight = looks / looks.sum((2, 3), keepdim=True)
    place = torch.arange(SIZE) + 0.5
    return torch.stack([(weight.sum(3) * place).sum(2), (weight.sum(2) * place).sum(2)], -1)


def blob(count=200, frames=4, tall=4, wide=4):
    crops = torch.zeros(count, frames, SIZE, SIZE)
    crops[:, :, SIZE // 2 - tall : SIZE // 2 + tall, SIZE // 2 - wide : SIZE // 2 + wide] = 200
    return crops


def test_the_position_varies_by_its_share_and_stays_within_a_window():
    looks, _ = only(shift=0.1)(blob(), torch.zeros(0, 16, BANDS))
    moved = centre(looks) - SIZE / 2
    assert (moved[:, 0] - moved[:, -1]).abs().max() < 1e-2
    assert moved[:, 0].std(0).tolist() == pytest.approx([0.1 * SIZE / 2] * 2, rel=0.2)
    area = looks.sum((2, 3)) / 200
    assert area.std() / area.mean() < 0.02


def test_the_size_varies_alike_in_both_directions_and_a_turn_in_width_alone():
    for option, tall_moves in (("scale", True), ("turn", False)):
        looks, _ = only(**{option: 0.2})(blob(), torch.zeros(0, 16, BANDS))
        tall, wide = ((looks[:, 0] > 100).any(axis).sum(-1).float() for axis in (2, 1))
        assert (tall.std() > 0.5) == tall_moves
        if option == "scale":
            assert wide.log().std() == pytest.approx(0.2, rel=0.3)
            assert torch.corrcoef(torch.stack([tall, wide]))[0, 1] > 0.95


def test_an_angle_turns_around_the_centre():
    bar = blob(tall=10, wide=2)
    looks, _ = only(angle=0.2)(bar, torch.zeros(0, 16, BANDS))
    assert (centre(looks) - SIZE / 2).abs().max() < 0.1
    top = looks[:, 0, 3:8].sum(1)
    slope = (top / top.sum(-1, keepdim=True) * (torch.arange(SIZE) + 0.5)).sum(-1) - SIZE / 2
    assert (slope / 6.5).atan().std() == pytest.approx(0.2, rel=0.25)


def test_drift_moves_a_mouth_slowly_within_a_window():
    crops = blob(60, frames=40)
    still, moving = (centre(only(shift=0.1, drift=drift)(crops, torch.zeros(0, 160, BANDS))[0]) for drift in (0, 1))
    assert (still - still[:, :1]).abs().max() < 1e-2
    assert (moving - moving.mean(1, keepdim=True)).std() > 0.5
    assert (moving[:, 1:] - moving[:, :-1]).abs().max() < 1  # pixels from frame to frame
    assert not frames_differ(only(drift=1.0)(crops, torch.zeros(0, 160, BANDS))[0], crops).any()


def test_light_moves_levels_and_keeps_their_order():
    crops = torch.linspace(20, 230, SIZE).expand(300, 2, SIZE, SIZE)
    looks, _ = only(light=0.3)(crops, torch.zeros(0, 8, BANDS))
    assert (looks[..., 1:] >= looks[..., :-1]).all()
    assert ((looks >= 0) & (looks <= 255)).all()
    assert (looks[:, 0] == looks[:, 1]).all() and looks[:, 0, 0, SIZE // 2].std() > 20


def test_noise_is_new_in_every_frame_and_no_larger_than_said():
    crops = torch.full((40, 10, SIZE, SIZE), 120.0)
    looks, _ = only(noise=4.0)(crops, torch.zeros(0, 40, BANDS))
    deviations = looks.std((1, 2, 3))
    assert 0 <= deviations.min() < 1 and 3 < deviations.max() < 4.2
    assert (looks[:, 0] != looks[:, 1]).any()


def test_coarse_mouths_have_a_half_or_a_third_of_the_pixels():
    stripes = (127 + 127 * (-1.0) ** torch.arange(SIZE)).expand(60, 3, SIZE, SIZE)
    looks, _ = only(coarse=0.5)(stripes, torch.zeros(0, 12, BANDS))
    changed = frames_differ(looks, stripes)
    assert (changed.all(1) | ~changed.any(1)).all()
    assert 15 < changed.any(1).sum() < 45
    assert looks[changed.any(1)].std(-1).max() < 60 < stripes[0].std(-1).min()


def test_stuttering_repeats_frames_and_never_looks_ahead():
    crops = torch.arange(FRAMES).float()[None, :, None, None].expand(100, FRAMES, SIZE, SIZE) * 10
    looks, _ = only(stutter=1.0)(crops, torch.zeros(0, 80, BANDS))
    behind = (crops - looks)[:, :, 0, 0].round() / 10
    assert set(behind.unique().tolist()) == {0.0, 1.0}
    assert 0.1 < behind.mean() < 0.3 and (behind[:, 0] == 0).all()
    rarely, _ = only(stutter=0.3)(crops, torch.zeros(0, 80, BANDS))
    assert 10 < frames_differ(rarely, crops).any(1).sum() < 50


def test_what_covers_a_mouth_is_one_grey_rectangle_that_stays():
    crops, sound = windows(60)
    looks, _ = only(occlusion=1.0)(crops, sound)
    for window, before in zip(looks, crops, strict=True):
        covered = (window - before).abs().amin(0) > 1e-2
        rows, columns = covered.any(1), covered.any(0)
        assert rows.sum() <= SIZE / 2 + 1 and columns.sum() <= SIZE / 2 + 1
        if covered.any():
            inside = window[:, covered]
            assert inside.std() < 1e-2
    assert frames_differ(looks, crops).any(1).float().mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_at_any_speed_lips_and_sound_stay_together(seed):
    # A ramp in both says of every place in the output from which time of the input it comes.
    torch.manual_seed(seed)
    frames = 40
    crops = torch.arange(frames).float()[None, :, None, None].expand(8, frames, 4, 4) * 5
    sound = (torch.arange(4 * frames).float()[None, :, None] - 1.5).expand(6, 4 * frames, BANDS) / 4 * 5
    looks, other = only(speed=0.25)(crops, sound)
    assert looks.shape[1] == 32 and other.shape[1] == 128
    seen, heard = looks[:6, :, 0, 0], other[:, :, 0].view(6, 32, 4).mean(2)
    inside = slice(1, -1)  # the first and the last row have no neighbour to be read from
    torch.testing.assert_close(seen[:, inside], heard[:, inside], atol=1e-2, rtol=0)
    pace = (looks[:, 20, 0, 0] - looks[:, 10, 0, 0]) / 50
    assert ((pace > 1 / 1.25 - 0.01) & (pace < 1.25 + 0.01)).all() and pace.std() > 0.05


def test_an_event_stays_at_one_time_in_both():
    torch.manual_seed(3)
    crops, sound = torch.zeros(8, 50, 8, 8), torch.full((8, 200, BANDS), -10.0)
    crops[:, 25:28] = 200
    sound[:, 100:112] = 0
    looks, other = SyncAugmentation(speed=0.2, stutter=0, occlusion=0, masks=0, noise=0, echo=0, babble=0)(crops, sound)
    seen = looks.mean((2, 3)) - looks.mean((2, 3)).amin(1, keepdim=True)
    heard = other.exp().sum(2)
    heard = heard - heard.amin(1, keepdim=True)
    for window in range(8):
        at = (seen[window] * (torch.arange(41) + 0.5)).sum() / seen[window].sum()
        then = (heard[window] * (torch.arange(164) + 0.5)).sum() / heard[window].sum() / 4
        assert float(at - then) == pytest.approx(0, abs=0.15)


def test_the_level_moves_and_the_spectrum_tilts():
    sound = torch.randn(300, 8, BANDS)
    _, other = only(gain=0.7)(torch.zeros(300, 2, 8, 8), sound)
    change = other - sound
    assert (change - change[:, :1]).abs().max() < 1e-5  # the same at every time
    low, high = change[:, 0, 0], change[:, 0, -1]
    assert ((low + high) / 2).std() == pytest.approx(0.7, rel=0.2)
    assert ((high - low) / 2).std() == pytest.approx(0.7, rel=0.2)


def test_another_throat_moves_the_spectrum():
    bands = torch.arange(BANDS).float()
    sound = (-((bands - 40) ** 2) / 18).expand(300, 8, BANDS)
    _, other = only(voice=3.0)(torch.zeros(300, 2, 8, 8), sound)
    weight = other[:, 0].exp()
    places = (weight * bands).sum(1) / weight.sum(1)
    assert places.std() == pytest.approx(3.0, rel=0.2) and places.mean() == pytest.approx(40, abs=0.6)


def test_a_noise_floor_is_4_nepers_or_more_below_the_loudest():
    sound = torch.full((200, 8, BANDS), -30.0)
    sound[:, 3, 10] = 2.0
    _, other = only(hum=6.0)(torch.zeros(200, 2, 8, 8), sound)
    floor = 2.0 - other[:, 0, 0]
    assert floor.min() >= 4 and floor.max() <= 10 and floor.std() > 1
    assert (other[:, 3, 10] - 2).max() < 0.02


def test_babble_is_the_sound_of_another_window_below_the_own():
    sound = torch.full((5, 20, BANDS), -20.0)
    for window in range(5):
        sound[window, 4 * window : 4 * window + 4, window] = 1.0
    _, other = only(babble=1.0)(torch.zeros(5, 5, 8, 8), sound)
    for window in range(5):
        beside = (window - 1) % 5
        assert other[window, 4 * window, window] == pytest.approx(1.0, abs=0.1)
        assert -3.01 <= other[window, 4 * beside, beside] <= 0.01
        rest = other[window].clone()
        rest[:, [window, beside]] = -20
        assert rest.max() < -15
    assert torch.equal(only(babble=1.0)(torch.zeros(1, 5, 8, 8), sound[:1])[1], sound[:1])


def test_an_echo_follows_fades_and_has_no_effect_before():
    sound = torch.full((50, 80, BANDS), -20.0)
    sound[:, 20] = 0.0
    _, other = only(echo=1.0)(torch.zeros(50, 20, 8, 8), sound)
    assert (other[:, :20] < -18).all()
    tail = other[:, 20:50, 5]
    assert torch.allclose(tail[:, 0], torch.zeros(50), atol=1e-3)
    falls = tail[:, 1] - tail[:, 2]  # nepers in 10 ms; 60 dB are 13.8
    assert falls.min() >= 13.8 / 30 - 0.01 and falls.max() <= 13.8 / 10 + 0.01
    assert torch.allclose(tail[:, 1], math.log(0.3) - falls, atol=1e-2)
    assert (other[:, 51:] < -15).all()


def test_masks_are_a_band_and_a_span_at_the_mean():
    sound = torch.randn(200, 80, BANDS) + torch.arange(200)[:, None, None]
    _, other = only(masks=1.0)(torch.zeros(200, 20, 8, 8), sound)
    masked = (other - sound).abs() > 1e-6
    bands, rows = masked.all(1).sum(-1), masked.all(2).sum(-1)
    assert bands.max() in (15, 16, 17) and rows.max() in (11, 12, 13)
    assert bands.min() < 3 and rows.min() < 3
    mean = sound.mean((1, 2), keepdim=True).expand_as(sound)
    torch.testing.assert_close(other[masked], mean[masked])
    half = (only(masks=0.5)(torch.zeros(200, 20, 8, 8), sound)[1] != sound).flatten(1).any(1)
    assert 120 < half.sum() < 175  # of each of two masks


def test_motion_stays_where_it_was_and_windows_differ():
    crops = torch.zeros(6, 5, 16, 16)
    crops[:, :, 6:10, 6:10] = 200
    crops[:, 2, 8:, :] = 100
    looks, sound = SyncAugmentation(noise=0, drift=0, stutter=0, occlusion=0)(crops, torch.randn(4, 20, 80))
    assert looks.shape == crops.shape and sound.shape == (4, 20, 80)
    torch.testing.assert_close(looks[:, 0], looks[:, 4])  # frames that were equal stay equal
    assert (looks[:, 0] - looks[:, 2]).abs().amax((1, 2)).min() > 10
    assert (looks[0, 0] - looks[1, 0]).abs().max() > 10


def test_seeds_decide_and_the_input_stays():
    crops, sound = windows()
    before = crops.clone(), sound.clone()
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(SyncAugmentation(speed=0.25)(crops, sound))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[2][0]) and not torch.equal(found[0][1], found[2][1])
    assert torch.equal(crops, before[0]) and torch.equal(sound, before[1])


@pytest.mark.parametrize(
    "kinds", [(torch.uint8, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16,) * 2]
)
def test_inputs_of_any_precision_give_floats(kinds):
    crops, sound = windows()
    looks, other = SyncAugmentation(speed=0.2)(crops.to(kinds[0]), sound.to(kinds[1]))
    assert looks.dtype == other.dtype == torch.float32
    assert looks.isfinite().all() and other.isfinite().all()
    assert looks.min() >= 0 and looks.max() <= 255


@pytest.mark.parametrize("speed", [0.0, 0.25])
@pytest.mark.parametrize(("mouths", "sounds"), [(3, 0), (1, 1), (4, 2)])
def test_batches_with_few_or_no_sounds(mouths, sounds, speed):
    crops, sound = windows(mouths, sounds)
    frames = 20 if not speed else 16
    looks, other = SyncAugmentation(speed=speed)(crops, sound)
    assert looks.shape == (mouths, frames, SIZE, SIZE) and other.shape == (sounds, 4 * frames, BANDS)


def test_it_has_no_weights():
    assert not list(SyncAugmentation().parameters()) and not SyncAugmentation().state_dict()
