"""The constants of the catalogue are those that the published runs give."""

import dataclasses

import pytest
from anatomy.cost.efficiency import Efficiency, efficiency
from anatomy.validate import read
from anatomy.validate.calibration import USUAL, fit

FITTED = [run for run in read()[0] if run.fitted]
CONSTANTS = [field.name for field in dataclasses.fields(Efficiency)]


def of(generation: str) -> list:
    return [run for run in FITTED if run.generation == generation]


@pytest.fixture(scope="module")
def ampere():
    return fit(of("ampere"))


def test_ampere_is_fitted_to_every_second_row(ampere):
    assert ampere.converged
    kept = efficiency("a100_sxm_80gb")
    for name in CONSTANTS:
        assert getattr(kept, name) == pytest.approx(getattr(ampere.constants, name), rel=1e-2), name


def test_hopper_differs_in_matrix_products_alone(ampere):
    rest = [name for name in CONSTANTS if name != "matmul"]
    found = fit(of("hopper"), hold=rest, start=ampere.constants)
    assert efficiency("h100_sxm").matmul == pytest.approx(found.constants.matmul, rel=1e-2)
    for name in rest:
        assert getattr(efficiency("h100_sxm"), name) == getattr(efficiency("a100_sxm_80gb"), name)


def test_constants_that_made_the_runs_are_found_again():
    truth = Efficiency(matmul=0.68, half_size=30.0, memory=0.7, link=0.7, network=0.7)
    runs = [dataclasses.replace(run, published={"mfu": float(run.predict(truth).mfu)}) for run in read()[0][:10]]
    found = fit(runs).constants
    assert found.matmul == pytest.approx(truth.matmul, rel=0.05)
    # What the rows leave open stays between the truth and what is usual.
    for name in ("memory", "link", "network"):
        assert truth.network * 0.95 <= getattr(found, name) <= getattr(USUAL, name) * 1.05
