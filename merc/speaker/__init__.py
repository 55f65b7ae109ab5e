"""Active speaker: LipSyncNet, and the choice of the face whose lips fit the sound."""

from merc.speaker.augment import SyncAugmentation
from merc.speaker.base import SyncNetwork
from merc.speaker.choose import NOBODY, SPEAKER_COLUMNS, SpeakerChoice, choose_speaker
from merc.speaker.net import LipSyncNet
from merc.speaker.pooled import PooledLipSyncNet
from merc.speaker.score import MouthTrack, SyncScorer

__all__ = [
    "NOBODY",
    "SPEAKER_COLUMNS",
    "LipSyncNet",
    "MouthTrack",
    "PooledLipSyncNet",
    "SpeakerChoice",
    "SyncAugmentation",
    "SyncNetwork",
    "SyncScorer",
    "choose_speaker",
]
