"""Pictures on their time grid: exact after a seek, upright, cut and scaled, in sync with the sound."""

import gc
import math
import pickle
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.conversation import Clip
from merc.media import MediaError, frames_at, media_notes, probe, read_frames, read_sound
from merc.media.decode import LONGEST_GAP, SAME_TIME, on_grid
from support.made_media import HEIGHT, WIDTH, beeps, numbered, numbers, onsets, turned, write_media

CASES = Path(__file__).resolve().parents[3] / "shared/cases"
FLASHES = [0.6, 1.8, 3.0]
FORMATS = {
    "b_frames.mp4": {"options": {"bf": "3", "g": "20"}},
    "b_frames.mkv": {"options": {"bf": "3", "g": "20"}},
    "open_gop.mkv": {"options": {"bf": "3", "g": "20", "x264-params": "open-gop=1"}},
    "offset.ts": {"options": {"bf": "3", "g": "20"}},
    "offset.flv": {"options": {"bf": "3", "g": "20"}},
    "offset.mpg": {
        "codec": "mpeg1video",
        "sound_codec": "mp2",
        "rate": 44100,
        "options": {"bf": "2", "g": "12", "qmin": "2", "qmax": "2"},
        "noise": 40,  # so that frames are larger than packets and most have a time stamp, as in real files
    },
    "plain.avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le", "options": {"g": "12"}},
    "b_frames.avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le", "options": {"g": "12", "bf": "2"}},
    "one_key_frame.mov": {"sound_codec": "pcm_s16le", "options": {"g": "1000"}},
    "vp8.webm": {"codec": "libvpx", "sound_codec": "libopus", "rate": 48000, "options": {"deadline": "realtime"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module", params=FORMATS)
def talking(request, folder):
    """A file of 4 s whose frame i shows i, with a beep at each of FLASHES."""
    how = dict(FORMATS[request.param])
    pictures = [numbered(i, how.get("noise", 0)) for i in range(100)]
    how.pop("noise", None)
    sound = beeps(FLASHES, 4.0, how.get("rate", 16000))
    return write_media(folder / request.param, pictures=pictures, sound=sound, **how)


def shown(path, **options):
    clip = {name: options.pop(name) for name in ("start", "end", "region") if name in options}
    return list(chain(*(numbers(frames.images) for frames in read_frames(Clip(str(path), **clip), **options))))


def test_seeking_is_exact_in_every_format(talking):
    whole = shown(talking)
    assert sorted(set(whole)) == list(range(100))
    # The grid begins with the sound, which in some formats is up to 64 ms before the picture.
    for start in (0.04, 0.6, 1.28, 2.0, 2.04, 3.52):
        late = whole[round(start * 25) :]
        assert shown(talking, start=start) == late
        assert shown(talking, start=start, end=start + 0.4) == late[:10]


def test_picture_and_sound_are_in_sync_from_the_beginning_and_after_a_seek(talking):
    for start in (0.0, 1.3):
        flashes = [time for time in FLASHES if time > start]
        seen = shown(talking, start=start)
        heard = onsets(read_sound(Clip(talking, start=start)))
        assert len(heard) == len(flashes)
        for time, onset in zip(flashes, heard, strict=True):
            # The picture of the beep comes on the first grid time after its own, so up to one frame late.
            assert -0.002 <= seen.index(round(time * 25)) / 25 - onset < 0.042


def test_chunks_and_threads_do_not_change_a_pixel(folder):
    path = write_media(
        folder / "noise.mp4", pictures=[np.random.randint(0, 255, (48, 64, 3), np.uint8) for _ in range(30)], fps=30
    )
    reference = [frames for frames in read_frames(Clip(path, start=0.1), chunk=1000)]
    assert len(reference) == 1 and reference[0].first == 0
    for chunk, threads in ((1, 1), (7, 3), (64, 0)):
        parts = list(read_frames(Clip(path, start=0.1), chunk=chunk, threads=threads))
        assert [part.first for part in parts] == list(range(0, len(reference[0].images), chunk))
        assert all(len(part.images) == chunk for part in parts[:-1])
        assert torch.equal(torch.cat([part.images for part in parts]), reference[0].images)


@given(st.lists(st.integers(0, 60), max_size=8), st.sampled_from([0.0, 0.35, 1.2]), st.sampled_from([None, 1.9]))
def test_some_frames_are_those_of_all(some_film, numbers, start, end):
    clip = Clip(some_film, start, end)
    every = torch.cat([chunk.images for chunk in read_frames(clip, max_height=HEIGHT // 2)])
    some = list(frames_at(clip, numbers, max_height=HEIGHT // 2))
    assert [frame.first for frame in some] == sorted({number for number in numbers if number < len(every)})
    assert all(torch.equal(frame.images[0], every[frame.first]) for frame in some)
    assert {frame.scale for frame in some} <= {0.5}


@pytest.fixture(scope="module")
def some_film(folder):
    return str(write_media(folder / "some.mp4", pictures=[numbered(i) for i in range(55)]))


def test_some_frames_of_no_video_are_an_error(folder, some_film):
    with pytest.raises(MediaError, match="has no video from 9"):
        list(frames_at(Clip(some_film, 9.0, 10.0), [0]))


def test_images_that_were_handed_out_are_never_written_to_again(folder):
    path = write_media(folder / "still.mkv", pictures=[numbered(5)] * 2, times=[0.0, 1.0])
    parts = []
    for frames in read_frames(Clip(path), chunk=4):
        parts += numbers(frames.images)
        frames.images.zero_()
    assert parts == [5] * 26


def test_variable_frame_rate(folder):
    times = [0.0, 0.04, 0.05, 0.06, 0.5, 0.9, 0.91, 2.0]
    path = write_media(folder / "variable.mkv", pictures=[numbered(i) for i in range(8)], times=times)
    expected = [max(i for i, time in enumerate(times) if time <= grid / 25 + 1e-3) for grid in range(51)]
    assert shown(path) == expected
    assert shown(path, start=0.52, end=1.0) == expected[13:25]
    assert shown(path, fps=5.0) == expected[::5]


def test_a_faster_and_a_slower_source(folder):
    path = write_media(folder / "fast.mp4", pictures=[numbered(i) for i in range(120)], fps=60)
    assert shown(path) == [math.floor(grid * 60 / 25 + 1e-6) for grid in range(50)]
    path = write_media(folder / "slow.mp4", pictures=[numbered(i) for i in range(12)], fps=12)
    assert shown(path) == [math.floor(grid * 12 / 25 + 1e-6) for grid in range(25)]


def test_a_video_that_starts_late_shows_its_first_frame_until_then(folder):
    path = write_media(
        folder / "late.mkv",
        pictures=[numbered(i) for i in range(1, 11)],
        times=[0.4 + i / 25 for i in range(10)],
        sound=beeps([0.48], 1.0),
    )
    assert shown(path) == [1] * 11 + list(range(2, 11))
    assert shown(path, start=0.2, end=0.48) == [1] * 6 + [2]
    assert onsets(read_sound(Clip(path))) == pytest.approx([0.48], abs=0.002)
    with pytest.raises(MediaError) as caught:
        shown(path, start=0.1, end=0.3)
    assert caught.value.reason == "no video in the clip"


def test_a_clip_behind_the_end_of_the_video_is_an_error(folder):
    path = write_media(folder / "short.mp4", pictures=[numbered(i) for i in range(10)])
    with pytest.raises(MediaError, match="Check the times") as caught:
        shown(path, start=5.0, end=6.0)
    assert caught.value.reason == "no video in the clip"
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    assert shown(path, start=0.2, end=100.0) == [5, 6, 7, 8, 9]


def quadrants():
    """A picture with another colour in every quarter, and what they are called."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = 255, 0, 0
    picture[: HEIGHT // 2, WIDTH // 2 :] = 0, 255, 0
    picture[HEIGHT // 2 :, : WIDTH // 2] = 0, 0, 255
    picture[HEIGHT // 2 :, WIDTH // 2 :] = 255, 255, 255
    return picture


def colour_at(image, x, y):
    """The colour in a part of an image (3, H, W), with x and y in -1..1 around its middle."""
    red, green, blue = image[:, int((y + 1) / 2 * image.shape[1]), int((x + 1) / 2 * image.shape[2])].tolist()
    return "".join(name for name, value in zip("rgb", (red, green, blue), strict=True) if value > 128)


MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)]


@pytest.mark.parametrize("width", [22, 40, 54])
def test_the_last_columns_of_any_width_are_those_of_the_film(tmp_path, width):
    pictures = [np.full((24, width, 3), 200, np.uint8)] * 3
    [chunk] = read_frames(Clip(write_media(tmp_path / "a.mkv", pictures=pictures, codec="ffv1")), fps=25)
    assert chunk.images.shape == (3, 3, 24, width)
    assert float((chunk.images.int() - 200).abs().max()) <= 2


@pytest.mark.parametrize("matrix", [*MATRICES, (0, -1, -1, 0)])
def test_rotated_and_mirrored_pictures_are_shown_upright(tmp_path, matrix):
    file = tmp_path / "turned.mp4"
    write_media(file, pictures=[quadrants()] * 3)
    path = turned(file, matrix)
    a, b, c, d = matrix
    [frames] = read_frames(Clip(path))
    info = probe(path)
    assert (info.height, info.width) == tuple(frames.images.shape[2:])
    assert (info.height > info.width) == (a == 0)
    for x, y, colour in ((-0.5, -0.5, "r"), (0.5, -0.5, "g"), (-0.5, 0.5, "b"), (0.5, 0.5, "rgb")):
        to = a * x + c * y, b * x + d * y
        assert colour_at(frames.images[0], *to) == colour
        # A region is a part of what is shown, so the quarter of this colour can be cut out of it.
        left, top = (max(0.0, math.copysign(0.5, side)) for side in to)
        [part] = read_frames(Clip(path, region=(left, top, left + 0.5, top + 0.5)))
        assert part.images.shape[2:] == (info.height // 2, info.width // 2)
        inner = part.images[0, :, 2:-2, 2:-2]
        assert {colour_at(inner, x, y) for x in (-0.9, 0.0, 0.9) for y in (-0.9, 0.0, 0.9)} == {colour}
        assert torch.equal(
            inner,
            frames.images[0][:, round(top * info.height) :, round(left * info.width) :][:, 2:, 2:][
                :, : inner.shape[1], : inner.shape[2]
            ],
        )


ANAMORPHIC = {
    "pal.mp4": {"sar": "64/45"},
    "ntsc.mkv": {"sar": "8/9"},
    "vcd.mpg": {"sar": "12/11", "codec": "mpeg1video"},
    "wide.ts": {"sar": "4/3"},
    "dvd.vob": {"sar": "64/45", "codec": "mpeg2video"},
    "half.avi": {"sar": "2", "codec": "mpeg4"},
    "narrow.mp4": {
        "sar": "1/2",
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime"},
    },  # only the container knows
    "half_d1.mov": {"sar": "128/45"},
}


@pytest.mark.parametrize("name", ANAMORPHIC)
def test_pixels_that_are_not_square_are_shown_square(name, tmp_path):
    how = ANAMORPHIC[name]
    if name == "dvd.vob":  # MPEG-2 knows shapes of frames only: 16:9 of 720x576
        picture = np.array(np.kron(quadrants(), np.ones((12, 12, 1))), np.uint8)[:576, :720]
        picture[:, 360:] = picture[:, -1:]
    else:
        picture = quadrants()
    path = write_media(tmp_path / name, pictures=[picture] * 4, **how)
    width = round(picture.shape[1] * Fraction(how["sar"]))
    info = probe(path)
    [frames] = read_frames(Clip(path))
    assert frames.images.shape[2:] == (info.height, info.width) and frames.scale == 1
    assert info.height == picture.shape[0] and abs(info.width - width) <= 1
    assert any("not square: frames are stretched" in note for note in media_notes(path))
    assert colour_at(frames.images[0], -0.1, -0.5) == "r" and colour_at(frames.images[0], 0.1, -0.5) == "g"
    [small] = read_frames(Clip(path, region=(0.5, 0.0, 1.0, 1.0)), max_height=info.height // 2)
    assert small.scale == 0.5
    assert small.images.shape[2] == info.height // 2 and abs(small.images.shape[3] - info.width / 4) <= 1


def test_stretched_frames_are_rotated_after_that(tmp_path):
    file = tmp_path / "turned.mp4"
    write_media(file, pictures=[quadrants()] * 3, sar="3/2")
    path = turned(file, (0, 1, -1, 0))  # a quarter turn: what was on the left is on top
    info = probe(path)
    assert (info.width, info.height) == (HEIGHT, WIDTH * 3 // 2)
    [frames] = read_frames(Clip(path))
    assert frames.images.shape[2:] == (info.height, info.width)
    assert [colour_at(frames.images[0], x, y) for y in (-0.2, 0.2) for x in (-0.5, 0.5)] == ["b", "r", "rgb", "g"]
    [frames] = read_frames(Clip(path, region=(0.0, 0.5, 1.0, 1.0)), max_height=24)
    assert frames.images.shape[2:] == (24, 24) and frames.scale == 0.5
    assert [colour_at(frames.images[0], x, 0) for x in (-0.5, 0.5)] == ["rgb", "g"]


@pytest.mark.parametrize("sar", ["5", "1/5", "30", "1/30"])
def test_impossible_shapes_of_pixels_are_ignored(sar, tmp_path):
    path = write_media(tmp_path / "odd.mp4", pictures=[quadrants()] * 3, sar=sar)
    info = probe(path)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    assert any("cannot be right and is ignored" in note for note in media_notes(path))
    [frames] = read_frames(Clip(path))
    assert frames.images.shape[2:] == (HEIGHT, WIDTH)


def test_square_and_unknown_pixels_need_no_note(tmp_path):
    for name, sar in (("square.mp4", "1"), ("unknown.mp4", None)):
        assert media_notes(write_media(tmp_path / name, pictures=[quadrants()] * 3, sar=sar)) == []


def test_an_anamorphic_recording():
    case = CASES / "19_anamorphic/pal_dvd.mp4"
    if not case.exists():
        pytest.skip("needs the recordings of ../shared/cases")
    info = probe(case)
    [frames] = read_frames(Clip(str(case)))
    assert (info.width, info.height) == (1024, 576) == (frames.images.shape[3], frames.images.shape[2])
    inside = (frames.images[0].float() - frames.images[0, :, :1, :1]).abs().amax(0) > 60  # the inset, a square
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert abs(int(rows[-1] - rows[0]) - int(columns[-1] - columns[0])) <= 2


def test_frames_go_when_they_are_done_with(folder):
    """None is left for the garbage collector, which does not know how much memory a frame takes."""
    import av

    write_media(folder / "short.mp4", pictures=[numbered(i) for i in range(30)])
    gc.collect()
    gc.disable()
    try:
        assert sum(len(frames.images) for frames in read_frames(Clip(str(folder / "short.mp4")), chunk=8)) == 30
        assert not [found for found in gc.get_objects() if type(found) is av.VideoFrame]
    finally:
        gc.enable()


def test_scaling_never_enlarges_and_says_its_scale(folder):
    path = write_media(folder / "scaled.mp4", pictures=[quadrants()] * 2)
    [frames] = read_frames(Clip(path), max_height=12)
    assert frames.images.shape == (2, 3, 12, 16) and frames.scale == 0.25
    [frames] = read_frames(Clip(path), max_height=480)
    assert frames.images.shape == (2, 3, 48, 64) and frames.scale == 1.0
    [frames] = read_frames(Clip(path, region=(0.5, 0, 1, 1)), max_height=24)
    assert frames.images.shape == (2, 3, 24, 16) and frames.scale == 0.5
    assert colour_at(frames.images[0], -0.9, -0.9) == "g"


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuvj420p"])
def test_colours_are_rgb(folder, pix_fmt):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:] = 200, 120, 40
    path = write_media(folder / f"{pix_fmt}.mkv", pictures=[picture] * 2, pix_fmt=pix_fmt)
    [frames] = read_frames(Clip(path))
    assert (frames.images.float().mean((0, 2, 3)) - torch.tensor([200.0, 120, 40])).abs().max() < 4


def test_grey_and_odd_sizes(folder):
    pictures = [np.full((47, 63, 3), 90, np.uint8)] * 3
    path = write_media(folder / "grey.mkv", pictures=pictures, codec="ffv1", pix_fmt="gray")
    [frames] = read_frames(Clip(path))
    assert frames.images.shape == (3, 3, 47, 63)
    assert (frames.images.float() - 90).abs().max() <= 2


def test_probe(folder):
    path = write_media(
        folder / "probed.mp4", pictures=[numbered(0)] * 25, sound=beeps([], 1.5, 44100, 2), rate=44100, fps=50
    )
    info = probe(path)
    assert (info.width, info.height, info.fps, info.sample_rate, info.channels) == (64, 48, 50.0, 44100, 2)
    assert info.duration == pytest.approx(1.5, abs=0.05)
    path = write_media(folder / "probed.wav", sound=beeps([], 0.5), sound_codec="pcm_s16le")
    info = probe(path)
    assert (info.width, info.height, info.fps, info.sample_rate, info.channels) == (None, None, None, 16000, 1)


def test_a_file_that_does_not_say_how_long_it_is(folder):
    path = write_media(
        folder / "live.mkv",
        pictures=[numbered(i) for i in range(30)],
        sound=beeps([0.5], 1.2),
        mux_options={"live": "1"},
    )
    assert probe(path).duration == pytest.approx(1.2, abs=0.1)
    assert shown(path) == list(range(30))
    raw = write_media(folder / "raw.h264", pictures=[numbered(i) for i in range(60)], options={"g": "10"})
    assert probe(raw).duration == pytest.approx(2.4)
    assert shown(raw, start=1.0) == list(range(25, 60))


def test_time_limit_ends_work_but_not_waiting(folder, monkeypatch):
    path = write_media(folder / "limited.mp4", pictures=[numbered(i) for i in range(100)])
    now = [0.0]
    monkeypatch.setattr("merc.media.decode.time.monotonic", lambda: now[0])
    for frames in read_frames(Clip(path), chunk=10, time_limit=5.0):
        now[0] += 1000.0  # the caller thinks
        assert len(frames.images) == 10
    step = iter(range(10**9))
    monkeypatch.setattr("merc.media.decode.time.monotonic", lambda: float(next(step)))
    for limited in (lambda: shown(path, time_limit=5.0), lambda: probe(path, time_limit=1.0)):
        with pytest.raises(MediaError, match="lags more than") as caught:
            limited()
        assert caught.value.reason == "time limit"
    assert shown(path, time_limit=math.inf) == list(range(100))


def slow_grid(frames, fps, end):
    """on_grid again, one grid time after the other."""
    kept = []
    for frame in frames:
        if kept and frame[0] - kept[-1][0] > LONGEST_GAP:
            break
        if frame[0] < end and all(frame[0] > other[0] for other in kept):
            kept.append(frame)
    later = [frame for frame in frames if frame[0] >= end]
    grid = []
    while kept:
        time = len(grid) / fps + SAME_TIME
        if time >= end or (time >= kept[-1][0] + kept[-1][1] and not later):
            break
        grid.append(([kept[0]] + [frame for frame in kept if frame[0] <= time])[-1][2])
    return grid


seconds = st.floats(-3, 12).map(lambda value: round(value, 2))


@given(
    st.lists(seconds, max_size=30).map(sorted),
    st.lists(st.tuples(st.integers(0, 29), seconds), max_size=3),
    st.sampled_from([0.0, 0.04, 0.1, 2.0]),
    st.sampled_from([1.0, 5.0, 25.0, 29.97]),
    st.sampled_from([math.inf, 0.5, 1.0, 3.3, 8.0]),
)
def test_the_grid_equals_the_slow_one(times, damaged, last, fps, end):
    for place, time in damaged:  # stamps that jump back or forth
        if place < len(times):
            times[place] = time
    # Whatever comes at or after the end of the clip ends it, as the decoder stops there.
    cut = next((i + 1 for i, time in enumerate(times) if time >= end), len(times))
    frames = [(time, last, name) for name, time in enumerate(times[:cut])]
    assert list(on_grid(frames, fps, end)) == slow_grid(frames, fps, end)


def test_absurd_time_stamps_end_the_video():
    frames = [(0.0, 0.04, "a"), (0.04, 0.04, "b"), (1e6, 0.04, "c")]
    assert list(on_grid(frames, 25.0, math.inf)) == ["a", "b"]
    assert list(on_grid([(0.0, 1e9, "a")], 1.0, math.inf)) == ["a"] * int(LONGEST_GAP)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_memory_is_that_of_a_chunk(folder, start):
    path = write_media(folder / "long.mp4", pictures=[numbered(i % 256) for i in range(500)])
    reading = read_frames(Clip(path, start=start), chunk=8)
    first = next(reading)
    assert first.images.untyped_storage().nbytes() == 8 * 3 * HEIGHT * WIDTH
    reading.close()
