"""Media: frames and sound of any file that FFmpeg reads, faces, and their tracks."""

from merc.media.appearance import face_appearance
from merc.media.crops import crop_faces, rows_to_crops, track_crops
from merc.media.decode import Frames, MediaError, MediaInfo, frames_at, probe, read_frames
from merc.media.faces import CenterFaceDetector, FaceDetector, Faces, MTCNNDetector
from merc.media.mfcc import MFCC
from merc.media.notes import media_notes
from merc.media.rates import FRAME_RATE, MEL_BANDS, MEL_PER_FRAME, MEL_RATE, SAMPLE_RATE
from merc.media.sound import LogMel, iter_sound, read_sound
from merc.media.tracker import FaceTracker
from merc.media.tracks import FaceTrack, rows_to_tracks, track_of, tracks_to_rows

__all__ = [
    "FRAME_RATE",
    "MEL_BANDS",
    "MEL_PER_FRAME",
    "MEL_RATE",
    "MFCC",
    "SAMPLE_RATE",
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
    "face_appearance",
    "frames_at",
    "iter_sound",
    "media_notes",
    "probe",
    "read_frames",
    "read_sound",
    "rows_to_crops",
    "rows_to_tracks",
    "track_crops",
    "track_of",
    "tracks_to_rows",
]
