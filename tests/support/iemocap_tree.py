"""Writes a small tree in the layout of IEMOCAP's release, which is licensed and cannot come with the tests."""

from merc.corpora.iemocap import USUAL_VALIDATION

DIALOGUES = {
    1: ["Ses01F_impro01", "Ses01M_script02_1"],
    2: ["Ses02F_impro01"],
    3: ["Ses03F_script01_1"],
    4: ["Ses04M_impro03"],
    5: [f"Ses05F_impro0{i}" for i in range(1, 8)],
}
for _name in USUAL_VALIDATION:
    DIALOGUES[int(_name[4])].append(_name)

CODES = ("hap", "sad", "neu", "ang", "exc", "fru", "xxx", "sur", "oth")


def make_iemocap(root, sound=True):
    """Dialogues with one turn for each of CODES, two actors in turn, and a turn XX that is not rated."""
    for session, dialogues in DIALOGUES.items():
        folder = root / f"Session{session}"
        (folder / "dialog/EmoEvaluation").mkdir(parents=True)
        (folder / "dialog/transcriptions").mkdir()
        for dialogue in dialogues:
            turns, ratings = [], ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"]
            for index, code in enumerate(CODES):
                name = f"{dialogue}_{'FM'[index % 2]}{index // 2:03d}"
                start, end = 2.0 * index + 0.25, 2.0 * index + 1.5
                turns.append(f"{name} [{start:08.4f}-{end:08.4f}]: Line {index} of {dialogue}.\n")
                ratings.append(f"[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n")
                ratings.append("C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n")
                if sound:
                    clip = folder / f"sentences/wav/{dialogue}/{name}.wav"
                    clip.parent.mkdir(parents=True, exist_ok=True)
                    clip.touch()
            turns.insert(3, f"{dialogue}_FXX0 [005.6000-005.9000]: [BREATHING]\n")
            (folder / f"dialog/transcriptions/{dialogue}.txt").write_text("".join(turns))
            (folder / f"dialog/transcriptions/._{dialogue}.txt").write_bytes(b"\0\5\x16\7")
            (folder / f"dialog/EmoEvaluation/{dialogue}.txt").write_text("".join(ratings))
    return root
