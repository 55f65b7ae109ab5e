"""Models: one folder that predicts anywhere, made from a finished run."""

from typing import TYPE_CHECKING

from merc._lazy import lazy_names

if TYPE_CHECKING:
    from merc.models.apply import apply_model
    from merc.models.conversations import as_conversations
    from merc.models.errors import ModelError
    from merc.models.export import export_run
    from merc.models.model import FACE_SHARE, Model, load, shipped_models
    from merc.models.onnx_export import export_onnx
    from merc.models.result import Emotions

__all__ = [
    "FACE_SHARE",
    "Emotions",
    "Model",
    "ModelError",
    "apply_model",
    "as_conversations",
    "export_onnx",
    "export_run",
    "load",
    "shipped_models",
]

# Lazy: to predict needs neither Lightning nor the pipelines, which take seconds to import.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "merc.models.apply": ["apply_model"],
        "merc.models.conversations": ["as_conversations"],
        "merc.models.errors": ["ModelError"],
        "merc.models.export": ["export_run"],
        "merc.models.model": ["FACE_SHARE", "Model", "load", "shipped_models"],
        "merc.models.onnx_export": ["export_onnx"],
        "merc.models.result": ["Emotions"],
    },
)
