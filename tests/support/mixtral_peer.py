"""An environment with torch for CPU and transformers, which the checkout's own does without."""

import hashlib
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from support.checkout import ROOT

PEER = ("torch==2.13.0", "transformers==5.24.0")


class Unavailable(Exception):
    """The environment cannot be made here; the message says why."""


def peer_python() -> Path:
    """Python of the environment, made on first use and kept below `_build/peers`.

    Raises:
        Unavailable: it cannot be installed, or torch would bring gigabytes of CUDA.
    """
    key = hashlib.sha256(repr((PEER, sys.version)).encode()).hexdigest()[:8]
    folder = ROOT / "_build" / "peers" / f"mixtral-{key}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)

    def install(*options: str) -> str:
        command = [python, "-m", "pip", "install", *options, *PEER]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise Unavailable(f"{' and '.join(PEER)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout

    if cuda := re.findall(r"\bnvidia[-_]\S+", install("--dry-run")):
        raise Unavailable(f"torch of this index brings CUDA: {', '.join(cuda[:3])}; a CPU build is needed")
    install("--quiet")
    ready.touch()
    return python
