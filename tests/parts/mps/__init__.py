"""
NVIDIA's own MPS control daemon, which ``fetch`` unpacks. It runs without any GPU, driver or library of NVIDIA's.
"""

import os
import pathlib

from tests.support import needs

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "build" / "mps" / "usr" / "bin" / "nvidia-cuda-mps-control"


def missing():
    """Why the daemon can't be run here, "" when it can."""
    if not PROGRAM.exists():
        return needs.said({"nvidia-cuda-mps": "by tests/parts/mps/fetch"})
    return "" if os.geteuid() == 0 else "its folder below /run needs root"
