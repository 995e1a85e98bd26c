"""A request from the prompt to the last token."""

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.request import request
from anatomy.cost.serving.steps import decode, prefill
from anatomy.specs import Serving, architecture, catalogue
from hypothesis import given

LLAMA, BOX, AMPERE = architecture("llama2_70b"), catalogue.cluster("a100_sxm_80gb", 1.0), overheads("a100_sxm_80gb")
PLAN = Serving(tensor=8.0)


def test_one_step_stands_for_all():
    made = request(LLAMA, PLAN, BOX, AMPERE, batch=8.0, prompt=512.0, answer=128.0)
    steps = [float(decode(LLAMA, PLAN, BOX, AMPERE, batch=8.0, context=512.0 + i).seconds) for i in range(1, 128)]
    read = float(prefill(LLAMA, PLAN, BOX, AMPERE, batch=8.0, prompt=512.0).seconds)
    assert float(made.time_to_first_token) == read
    assert float(made.seconds) == pytest.approx(read + np.sum(steps), rel=1e-9)


@given(st.floats(1, 64), st.floats(1, 4000), st.floats(1, 4000))
def test_rates_and_prices_belong_together(sequences, prompt, answer):
    made = request(LLAMA, PLAN, BOX, AMPERE, batch=sequences, prompt=prompt, answer=answer)
    assert float(made.tokens_per_chip) * 8 * float(made.seconds) == pytest.approx(sequences * answer, rel=1e-9)
    assert float(made.tokens_per_user * made.time_per_output_token) == pytest.approx(1)
    assert 0 < float(made.mfu) <= 1
    # Both prices, times tokens, are the chip-hours of the whole but for the token that the prompt gives.
    read, written = (float(price) / 1e6 for price in made.dollars_per_million(3600.0))
    spent = sequences * (read * prompt + written * (answer - 1))
    assert spent == pytest.approx(8 * float(made.seconds), rel=1e-9)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"request.answer is 0.5; allowed: a finite number at least 1"):
        request(LLAMA, PLAN, BOX, AMPERE, batch=8.0, prompt=512.0, answer=0.5)
    with pytest.raises(ValueError, match=r"request.answer is inf; allowed: a finite number at least 1"):
        request(LLAMA, PLAN, BOX, AMPERE, batch=8.0, prompt=512.0, answer=float("inf"))
    with pytest.raises(ValueError, match=r"prefill.prompt is 0"):
        request(LLAMA, PLAN, BOX, AMPERE, batch=8.0, prompt=0.0, answer=5.0)
