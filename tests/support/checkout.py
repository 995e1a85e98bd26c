"""Clean copies of the checkout, and building the book in them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = [str(Path(sys.executable).parent / "jupyter-book"), "build", ".", "-W", "-n", "--keep-going"]


def tracked() -> list[str]:
    """What git tracks, or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def built_before_edits(folder: Path) -> bool:
    """Whether the book in the checkout is missing, or older than any file that it may be made from."""
    made = folder / "_build" / "html" / "index.html"
    sources = [folder / name for name in tracked() if name.startswith(("book/", "lib/", "_"))]
    return not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources)


def copy_checkout(target: Path) -> Path:
    """Copy what git tracks, or would track, as it stands in the working tree."""
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


def build(folder: Path, environment: Mapping[str, str] = {}) -> str:
    """Build the book in a folder, strictly, as `make book` does; what was printed.

    Raises:
        RuntimeError: the build failed; the message is what it printed.
    """
    done = subprocess.run(
        BUILD,
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    if done.returncode:
        raise RuntimeError(f"the book did not build:\n{done.stdout}")
    return done.stdout
