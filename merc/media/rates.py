"""The rates that all of merc shares: frames of the video, samples and log-mel rows of the sound.

All of them count from the start of the clip.
"""

FRAME_RATE = 25
"""Frames per second of the time grid on which video is read, and faces and mouths are stored."""

SAMPLE_RATE = 16_000
"""Samples per second of all decoded sound."""

MEL_RATE = 100
"""Log-mel rows per second."""

MEL_PER_FRAME = MEL_RATE // FRAME_RATE
"""Log-mel rows per frame of the video."""

MEL_BANDS = 80
"""Bands of a log-mel row."""
