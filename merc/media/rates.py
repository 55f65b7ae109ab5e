"""The clocks that everything in merc shares: frames of the video, samples and log-mel frames of the sound.

All of them count from the start of the clip.
"""

FRAME_RATE = 25
"""Frames per second of the time grid on which video is read, and faces and mouths are stored."""

SAMPLE_RATE = 16_000
"""Samples per second of all sound that is read and encoded."""

MEL_RATE = 100
"""Log-mel frames per second."""

MEL_PER_FRAME = MEL_RATE // FRAME_RATE
"""Log-mel frames for every frame of the video."""

MEL_BANDS = 80
"""Bands of a log-mel frame."""
