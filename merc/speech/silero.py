"""Silero's voice activity detector as a plain PyTorch network; its weights come with the package silero-vad."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.rates import SAMPLE_RATE
from merc.weights import packaged

CHUNK = 512
"""Samples of one decision, 32 ms."""

CONTEXT = 64
"""Samples before a chunk that are read with it."""

STEP = CHUNK / SAMPLE_RATE
"""Seconds from one decision to the next."""

_FILE = "data/silero_vad_16k.safetensors"


class SileroNet(nn.Module):
    """Probabilities that somebody speaks, one for every 32 ms (the 16 kHz network of silero-vad 6, MIT licence).

    The magnitudes of a learned Fourier transform pass four convolutions, an LSTM over the whole sound, and a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(
        self, chunks: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Judge consecutive chunks of one sound.

        Args:
            chunks: ``(T, 576)`` samples: :data:`CONTEXT` of the chunk before, then :data:`CHUNK` of its own.
            state: Of the chunks before; ``None`` at the beginning.

        Returns:
            ``(T,)`` probabilities, and the state after the last chunk.
        """
        x = self.stft_conv(F.pad(chunks[:, None], (0, CONTEXT), mode="reflect"))
        real, imaginary = x.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = convolution(x).relu()
        heard, state = self.lstm(x.squeeze(-1)[None], state)
        return self.final_conv(heard[0].relu()[..., None]).sigmoid().flatten(), state


def load_silero() -> SileroNet:
    """The network with its weights, in evaluation mode.

    Raises:
        ModuleNotFoundError: The package silero-vad is not installed.
    """
    file = packaged("silero_vad", _FILE)
    if file is None or not file.is_file():
        raise ModuleNotFoundError(
            f"The voice detector needs the weights of silero-vad 6 ({_FILE}): pip install --no-deps silero-vad==6.2.3."
        )
    weights = load_file(file)
    for name in [name for name in weights if name.startswith("lstm_cell.")]:
        weights[f"{name.replace('lstm_cell', 'lstm')}_l0"] = weights.pop(name)
    network = SileroNet()
    network.load_state_dict(weights)
    return network.eval()
