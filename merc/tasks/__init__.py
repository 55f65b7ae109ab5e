"""LightningModules: what trains and runs the networks."""

from merc.tasks.encoder_student import EncoderStudentTask
from merc.tasks.export import export_lipsync
from merc.tasks.extract import ExtractTask
from merc.tasks.faces import FacesTask
from merc.tasks.fusion import FusionTask
from merc.tasks.joint import JointTask
from merc.tasks.lipsync import LipSyncTask
from merc.tasks.student import StudentTask
from merc.tasks.targets import EmotionTargets, EmotionValueTargets, Targets, ValueTargets
from merc.tasks.teacher import TeacherTask
from merc.tasks.text_encoder import TextEncoderTask

__all__ = [
    "EmotionTargets",
    "EmotionValueTargets",
    "EncoderStudentTask",
    "ExtractTask",
    "FacesTask",
    "FusionTask",
    "JointTask",
    "LipSyncTask",
    "StudentTask",
    "Targets",
    "TeacherTask",
    "TextEncoderTask",
    "ValueTargets",
    "export_lipsync",
]
