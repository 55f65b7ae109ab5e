"""Code that runs in a process of its own, with little memory and little time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIMIT = """
import resource
{imports}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {more} * 2**20,) * 2)
"""


def within_limits(code, *, megabytes, seconds, imports="import torch, merc.corpora"):
    """What ``code`` prints, with at most so much memory beyond that of the imports; fails if it crashes or hangs."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is limited as Linux does it")
    program = LIMIT.format(imports=imports, more=megabytes) + code
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout
