"""Media: frames and sound of any file that FFmpeg reads, faces, and face tracks."""

from merc.media.crops import crop_faces, mouth_crops
from merc.media.decode import Frames, MediaError, MediaInfo, probe, read_frames
from merc.media.faces import CenterFaceDetector, FaceDetector, Faces, MTCNNDetector
from merc.media.sound import LogMel, iter_sound, read_sound
from merc.media.tracks import FaceTrack, FaceTracker, rows_to_tracks, tracks_to_rows

__all__ = [
    "CenterFaceDetector",
    "FaceDetector",
    "FaceTrack",
    "FaceTracker",
    "Faces",
    "Frames",
    "LogMel",
    "MTCNNDetector",
    "MediaError",
    "MediaInfo",
    "crop_faces",
    "iter_sound",
    "mouth_crops",
    "probe",
    "read_frames",
    "read_sound",
    "rows_to_tracks",
    "tracks_to_rows",
]
