"""Writes small trees in MELD's layout: CSV files, and clips that consist of an MP4 header."""

import csv
import struct

from merc.corpora.meld import CLIP_FOLDERS, CSV_FILES

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime".split(
    ","
)


def line(
    dialogue=0,
    utterance=0,
    *,
    text="Hi.",
    speaker="Ross",
    emotion="joy",
    episode=1,
    start="0:00:01,500",
    end="0:00:02,000",
):
    """A row of MELD's CSV files."""
    return [1, text, speaker, emotion, "positive", dialogue, utterance, 1, episode, start, end]


def write_csv(path, rows, header=HEADER, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])


def make_meld(root):
    """One dialogue in train and dev and two utterances, out of order and with a gap, in test."""
    write_csv(root / CSV_FILES["train"], [line(), line(0, 1, speaker="Monica", emotion="Anger")])
    write_csv(root / CSV_FILES["val"], [line()])
    write_csv(root / CSV_FILES["test"], [line(3, 4, episode=2), line(3, 2, speaker="Gunther"), line(1, 0)])
    for folder in CLIP_FOLDERS.values():
        (root / folder).mkdir()
    return root


def box(name, content=b"", *, wide=False):
    """A box of an MP4 file, with a 32-bit or a 64-bit size."""
    if wide:
        return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
    return struct.pack(">I4s", len(content) + 8, name) + content


def mp4(seconds, *, version=0, wide=False, moov_last=True):
    """The boxes of an MP4 file that lasts ``seconds``, and nothing to play."""
    form = ">B3xIIII" if version == 0 else ">B3xQQIQ"
    mvhd = box(b"mvhd", struct.pack(form, version, 0, 0, 1000, round(1000 * seconds)) + bytes(80))
    moov = box(b"moov", box(b"iods", bytes(5)) + mvhd)
    data = box(b"mdat", bytes(100), wide=wide)
    return box(b"ftyp", b"isom") + (data + moov if moov_last else moov + data)
