"""Other programs that answer the same questions; each runs in an environment of its own below `_build/peers`."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.checkout import ROOT

PEERS = ROOT / "_build" / "peers"


def run(name: str, requirements: list[str], script: str, question: dict[str, Any]) -> dict[str, Any]:
    """Put a question to a peer; its environment is made on first use.

    Args:
        name: of the environment.
        requirements: what pip installs, without dependencies beyond these.
        script: file beside this one, that reads the question from standard input and prints the answer, as JSON.
        question: what is asked.

    Raises:
        subprocess.CalledProcessError: the environment cannot be made, or the peer failed.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *requirements], check=True)
        (folder / "ready").touch()
    path = Path(__file__).parent / script
    done = subprocess.run([python, path], input=json.dumps(question), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def conversation(python: Path, script: str) -> Iterator[Callable[..., Any]]:
    """A peer in a process of its own that answers one question after the other, each a line of JSON.

    Args:
        python: of its environment.
        script: file beside this one.

    Returns:
        A function that asks; its arguments are the question.
    """
    process = subprocess.Popen(
        [python, Path(__file__).parent / script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # bars and advice
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_WAIT_POLICY": "PASSIVE"},  # or it spins in our turns
        text=True,
    )

    def ask(**question: Any) -> Any:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        if not (answer := process.stdout.readline()):
            raise RuntimeError(f"{script} ended with code {process.wait()}")
        return json.loads(answer)

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
