"""Published figures of models that serve, against the cost model."""

import dataclasses

import numpy as np
import pytest
from anatomy.cost.inference.steps import overheads
from anatomy.specs import catalogue
from anatomy.validate.serving import published

ROWS = {served.row["name"]: served for served in published()}
POPE = [served for served in ROWS.values() if served.row["source"] == "pope2023efficiently"]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_met_within_fifteen_per_cent(name):
    assert abs(ROWS[name].error()) < 0.15


@pytest.mark.parametrize("name", ROWS)
def test_the_published_utilisation_is_that_of_the_published_seconds(name):
    served = ROWS[name]
    if "mfu" in served.row:
        made = served.predict()
        assert float(made.mfu) * float(made.seconds) / served.seconds == pytest.approx(served.row["mfu"], abs=0.02)


def test_two_constants_are_fitted_on_two_rows_and_two_rows_are_not_fitted():
    fitted = [name for served in POPE for name in served.row.get("fitted", ())]
    assert sorted(fitted) == ["kernel", "matmul"]
    rest = [abs(served.error()) for served in POPE if not served.row.get("fitted")]
    assert len(rest) == 2 and np.mean(rest) < 0.1


def test_constants_matter():
    """With those of another generation the rows are not met, so the test can fail."""
    other = overheads("ampere")
    assert max(abs(served.error(other)) for served in POPE) > 0.15
    slow = dataclasses.replace(overheads("tpu"), kernel=20e-6)
    assert max(abs(served.error(slow)) for served in POPE) > 0.5


def test_slices_are_tori_of_equal_sides():
    cluster = catalogue.torus("tpu_v4", 64)
    assert float(cluster.node.link.side) == 4 and float(cluster.chips) == 64
    with pytest.raises(ValueError, match=r"torus.chips is 60; allowed: a power of 3"):
        catalogue.torus("tpu_v4", 60)
    with pytest.raises(KeyError, match="has no axes"):
        catalogue.torus("h100_sxm", 8)
