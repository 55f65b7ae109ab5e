"""Active speaker: LipSyncNet, and the choice of the face whose lips fit the sound."""

from merc.speaker.augment import SyncAugmentation
from merc.speaker.choose import SpeakerChoice, choose_speaker
from merc.speaker.net import LipSyncNet
from merc.speaker.score import SyncScorer

__all__ = ["LipSyncNet", "SpeakerChoice", "SyncAugmentation", "SyncScorer", "choose_speaker"]
