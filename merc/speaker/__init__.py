"""Active speaker: LipSyncNet, the choice of the face whose lips fit the sound, and a second opinion on who speaks."""

from merc.speaker.active import LIGHT_ASD_NAMES, ActiveSpeakerNet
from merc.speaker.augment import SyncAugmentation
from merc.speaker.base import MouthTrack, SpeakerScorer, SyncNetwork, TraceNetwork
from merc.speaker.choose import NOBODY, SPEAKER_COLUMNS, SpeakerChoice, choose_speaker
from merc.speaker.likelihood import LikelihoodScorer, Traces
from merc.speaker.net import LipSyncNet
from merc.speaker.opinion import add_opinion, mean_log_odds, score_tracks
from merc.speaker.pooled import PooledLipSyncNet
from merc.speaker.score import SyncScorer, SyncTrial, speaking_threshold

__all__ = [
    "LIGHT_ASD_NAMES",
    "NOBODY",
    "SPEAKER_COLUMNS",
    "ActiveSpeakerNet",
    "LikelihoodScorer",
    "LipSyncNet",
    "MouthTrack",
    "PooledLipSyncNet",
    "SpeakerChoice",
    "SpeakerScorer",
    "SyncAugmentation",
    "SyncNetwork",
    "SyncScorer",
    "SyncTrial",
    "TraceNetwork",
    "Traces",
    "add_opinion",
    "choose_speaker",
    "mean_log_odds",
    "score_tracks",
    "speaking_threshold",
]
