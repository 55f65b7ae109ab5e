"""Tiny, randomly initialised speech and video encoders in folders: no network needed."""

import json
from pathlib import Path

import torch
from transformers import AutoModel, Wav2Vec2FeatureExtractor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from merc.conversation import UtteranceKey

BODY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

CONVOLUTIONS = {
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embedding_groups": 2,
}

SPEECH = {
    "wav2vec2-layer": ("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wav2vec2-group": ("wav2vec2", {"feat_extract_norm": "group"}),
    "data2vec-audio": ("data2vec-audio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
    "hubert": ("hubert", {"feat_extract_norm": "group"}),
    "hubert-batch-norm": ("hubert", {"feat_extract_norm": "layer", "conv_pos_batch_norm": True}),
    "wavlm": ("wavlm", {"feat_extract_norm": "group", "num_buckets": 32, "max_bucket_distance": 80}),
    "wavlm-stable": ("wavlm", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_buckets": 32}),
    "unispeech": ("unispeech", {"feat_extract_norm": "group"}),
    "unispeech-sat": ("unispeech-sat", {"feat_extract_norm": "group"}),
    "wav2vec2-adapter": ("wav2vec2", {"feat_extract_norm": "layer", "add_adapter": True, "num_adapter_layers": 1}),
    "sew": ("sew", {"squeeze_factor": 2}),
}
"""Names of tiny speech encoders, with the families and settings that make them differ over time."""

VIDEO = {
    "timesformer": ("timesformer", {"num_frames": 4, "image_size": 32, "patch_size": 8}),
    "videomae": ("videomae", {"num_frames": 4, "image_size": 32, "patch_size": 8, "tubelet_size": 2}),
    "vivit": ("vivit", {"num_frames": 4, "image_size": 32, "tubelet_size": (2, 8, 8)}),
}
"""Names of tiny video encoders, with their families and settings."""


def tiny_speech(folder: Path, name: str = "wav2vec2-layer", **settings) -> str:
    """Save a speech encoder of ``SPEECH``."""
    family, more = SPEECH[name]
    positions = {"num_conv_pos_embeddings": 8} if "num_conv_pos_embeddings" not in more else {}
    config = CONFIG_MAPPING[family](**BODY, **CONVOLUTIONS, **positions, layerdrop=0.0, **more)
    _save(AutoModel.from_config, config, folder)
    Wav2Vec2FeatureExtractor(**{"do_normalize": True, **settings}).save_pretrained(folder)
    return str(folder)


def tiny_video(folder: Path, name: str = "timesformer", **settings) -> str:
    """Save a video encoder of ``VIDEO``."""
    family, more = VIDEO[name]
    _save(AutoModel.from_config, CONFIG_MAPPING[family](**BODY, **more), folder)
    pixels = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, **settings}
    pixels = {"image_mean": [0.45, 0.4, 0.5], "image_std": [0.2, 0.225, 0.25], **pixels}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


def _save(build, config, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(config)
        for weight in network.parameters():  # as different from each other as trained ones
            torch.nn.init.normal_(weight, std=0.3 if weight.ndim > 1 else 0.1)
    network.save_pretrained(folder)


def keys(count: int) -> list[UtteranceKey]:
    return [UtteranceKey("train", "0", str(number)) for number in range(count)]


def noises(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def crops(*lengths: int, size: int = 32, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator) for n in lengths]
