"""Media: picture and sound of any file that FFmpeg reads, faces, and their tracks."""

from merc.media.decode import Frames, MediaError, MediaInfo, probe, read_frames
from merc.media.sound import LogMel, iter_sound, read_sound

__all__ = ["Frames", "LogMel", "MediaError", "MediaInfo", "iter_sound", "probe", "read_frames", "read_sound"]
