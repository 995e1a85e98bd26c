"""Published figures of models that serve, predicted and held against what was published."""

import dataclasses
import tomllib
from importlib.resources import files
from typing import Any

import jax

from anatomy.cost.inference.steps import Overheads, Pass, decode, overheads, prefill
from anatomy.specs import Cluster, Serving, architecture, catalogue


@dataclasses.dataclass(frozen=True)
class Served:
    """A row of `serving.toml`.

    Attributes:
        row: as it stands there.
    """

    row: dict[str, Any]

    @property
    def cluster(self) -> Cluster:
        """The chips that it ran on."""
        key, chips = self.row["chip"], self.row["chips"]
        entry = catalogue.entry("chips", key)
        if "axes" in entry:
            return catalogue.torus(key, chips)
        return catalogue.cluster(key, max(chips / entry["node"], 1.0))

    @property
    def constants(self) -> Overheads:
        """Those of the chip's generation."""
        return overheads(catalogue.entry("chips", self.row["chip"])["generation"])

    def predict(self, constants: Overheads | None = None) -> Pass:
        """One pass, in double precision; with other constants, if given."""
        run = {"prefill": prefill, "decode": decode}[self.row["phase"]]
        plan = Serving(**{name: float(value) for name, value in self.row["plan"].items()})
        with jax.enable_x64(True):
            model, how = architecture(self.row["architecture"]), constants or self.constants
            return run(model, plan, self.cluster, how, float(self.row["sequences"]), float(self.row["context"]))

    @property
    def seconds(self) -> float:
        """Published seconds of a pass."""
        return self.row["seconds"] / self.row.get("steps", 1)

    def error(self, constants: Overheads | None = None) -> float:
        """Predicted over published seconds, less 1."""
        return float(self.predict(constants).seconds) / self.seconds - 1


def published() -> list[Served]:
    """All rows that come with the library."""
    text = files("anatomy.validate").joinpath("serving.toml").read_text("utf-8")
    return [Served(row) for row in tomllib.loads(text)["run"]]
