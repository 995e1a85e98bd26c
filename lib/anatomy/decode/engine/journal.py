"""A journal of what the engine has promised, so that a killed engine keeps its promises when it is started again.

One line of JSON for each request that is accepted and for each that is over, on the disk before anybody is answered.
A line that a kill cut off was never answered for, and is removed. Draws are keyed by seed and position alone, so a
request that is run again gets the same answer where the dispatch promises that (`step`).
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anatomy.decode.engine.requests import Answer, Request


class Journal:
    """The journal of one engine; no other process may write to it meanwhile.

    Attributes:
        unfinished: requests that were accepted and are not over, in the order of acceptance.
        finished: answers: tokens by name, the newest of a name; None of what was cancelled.
    """

    def __init__(self, path: Path) -> None:
        """Open, or begin, a journal.

        Raises:
            ValueError: a line that is whole is none of a journal; the message has its number.
            OSError: the file cannot be written to.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115
        self._file.seek(0)
        self.unfinished: dict[str, Request] = {}
        self.finished: dict[str, list[int] | None] = {}
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                self._note(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                allowed = "a request, or the end of one before it"
                raise ValueError(f"{path.name}, line {number}, is {line[:60]!r}; allowed: {allowed}") from error
        self._file.truncate(whole)

    def _note(self, line: dict[str, Any]) -> None:
        """Take in one line, read or written."""
        if "request" in line:
            request = Request(**line["request"])
            self.unfinished[request.name] = request
        else:
            del self.unfinished[line["over"]]
            self.finished[line["over"]] = line["tokens"]

    def accepted(self, request: Request) -> None:
        """Promise an answer."""
        self._write([{"request": dataclasses.asdict(request)}])

    def over(self, answers: Iterable[Answer]) -> None:
        """Note that these are finished or cancelled."""
        self._write({"over": a.request.name, "tokens": a.made if a.state == "finished" else None} for a in answers)

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        lines = list(lines)
        if lines:
            self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        for line in lines:
            self._note(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def requests(path: Path) -> Iterator[Request]:
    """All requests that a journal ever accepted, in this order: a recording that can be replayed."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and "request" in (entry := json.loads(line)):
            yield Request(**entry["request"])
