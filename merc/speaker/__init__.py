"""Active speaker: LipSyncNet, the choice of the face whose lips fit the sound, and a second opinion on who speaks."""

from merc.speaker.active import LIGHT_ASD_NAMES, ActiveSpeakerNet
from merc.speaker.augment import SyncAugmentation
from merc.speaker.base import MouthTrack, SpeakerScorer, SyncNetwork, TraceNetwork, mouth_tracks
from merc.speaker.choose import NOBODY, SPEAKER_COLUMNS, SpeakerChoice, choose_speaker
from merc.speaker.likelihood import LikelihoodScorer, Traces
from merc.speaker.net import LipSyncNet
from merc.speaker.opinion import add_opinion, mean_log_odds, score_tracks
from merc.speaker.persons import LinkedPersons, Person, PersonLinker, SeenFace, SpokenLine
from merc.speaker.pooled import PooledLipSyncNet
from merc.speaker.pretrained import PretrainedLips, load_lipsync, save_lipsync, shipped_lipsync
from merc.speaker.score import SyncScorer, SyncTrial, speaking_threshold
from merc.speaker.spans import TURN_COLUMNS, SpeakerTimeline, SpeakingSpan, rows_to_spans, spans_to_rows

__all__ = [
    "LIGHT_ASD_NAMES",
    "NOBODY",
    "SPEAKER_COLUMNS",
    "TURN_COLUMNS",
    "ActiveSpeakerNet",
    "LikelihoodScorer",
    "LinkedPersons",
    "LipSyncNet",
    "MouthTrack",
    "Person",
    "PersonLinker",
    "PooledLipSyncNet",
    "PretrainedLips",
    "SeenFace",
    "SpeakerChoice",
    "SpeakerScorer",
    "SpeakerTimeline",
    "SpeakingSpan",
    "SpokenLine",
    "SyncAugmentation",
    "SyncNetwork",
    "SyncScorer",
    "SyncTrial",
    "TraceNetwork",
    "Traces",
    "add_opinion",
    "choose_speaker",
    "load_lipsync",
    "mean_log_odds",
    "mouth_tracks",
    "rows_to_spans",
    "save_lipsync",
    "score_tracks",
    "shipped_lipsync",
    "spans_to_rows",
    "speaking_threshold",
]
