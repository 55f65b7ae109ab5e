"""Random weights in the format of Light-ASD's files: their names, their shapes."""

import torch


def light_asd_weights(seed=0):
    """All weights of a file, by name, of a size that keeps signals alive through the layers."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}

    def convolution(name, *shape):
        fan = torch.tensor(shape[1:]).prod()
        weights[f"{name}.weight"] = torch.randn(shape, generator=draw) * (2 / fan).sqrt()

    def norm(name, width):
        weights[f"{name}.weight"] = 0.8 + 0.4 * torch.rand(width, generator=draw)
        weights[f"{name}.bias"] = 0.1 * torch.randn(width, generator=draw)
        weights[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=draw)
        weights[f"{name}.running_var"] = 0.8 + 0.4 * torch.rand(width, generator=draw)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(100)

    def linear(name, rows, columns, parts=("weight", "bias")):
        weights[f"{name}.{parts[0]}"] = torch.randn(rows, columns, generator=draw) / columns**0.5
        weights[f"{name}.{parts[1]}"] = 0.1 * torch.randn(rows, generator=draw)

    for encoder, place in (("visualEncoder", "s"), ("audioEncoder", "m")):
        for number, (inputs, width) in enumerate(((1, 32), (32, 64), (64, 128)), start=1):
            block = f"model.{encoder}.block{number}"
            for k in (3, 5):
                face = place == "s"
                convolution(f"{block}.{place}_{k}", width, inputs, *((1, k, k) if face else (k, 1)))
                norm(f"{block}.bn_{place}_{k}", width)
                convolution(f"{block}.t_{k}", width, width, *((k, 1, 1) if face else (1, k)))
                norm(f"{block}.bn_t_{k}", width)
            convolution(f"{block}.last", width, width, *((1, 1, 1) if face else (1, 1)))
            norm(f"{block}.bn_last", width)
    for direction in ("gru_forward", "gru_backward"):
        for side in ("ih", "hh"):
            linear(f"model.GRU.{direction}", 384, 128, (f"weight_{side}_l0", f"bias_{side}_l0"))
    linear("lossAV.FC", 2, 128)
    linear("lossV.FC", 2, 128)
    return weights
