"""Vision: bytes and costs found another way, and verdicts that turn when what they rest on does."""

import dataclasses

import pytest
from anatomy.claims import Verdict, claims, finding
from anatomy.claims.checks.vision import loading, model, public
from anatomy.claims.ledger.claim import Terms
from anatomy.claims.ledger.registry import check_of
from anatomy.claims.record import record
from anatomy.specs import architecture
from anatomy.train import image_loader

CLAIMS = claims()


def test_speed_is_tokens_over_days():
    # 13 trillion tokens in the 90 to 100 days that the article names.
    assert 13e12 / (100 * 86_400) < loading.speed() < 13e12 / (90 * 86_400)


def test_traffic_by_hand():
    made = loading.load(588.0)
    assert made.cluster == pytest.approx(588 * loading.speed())
    assert made.chip == pytest.approx(made.cluster / 25_000)
    assert finding("vis.io_low").value == pytest.approx(made.chip / 25e9)


def test_an_encoder_eats_as_fast_as_its_size_says():
    # 6 FLOP a parameter and patch, and a little for attention.
    plain = 0.34 * 312e12 / (6 * model.ENCODER.parameters)
    assert 0.9 * plain < loading.encoder_speed() < plain


def test_dollars_of_the_further_tokens():
    identity = 6 * architecture("gpt4").parameters.active * 2e12 / (0.34 * 312e12) / 3600  # chip-hours at $1
    woven, plain = (model.tuning_dollars(chunks) for chunks in (8.0, 1.0))
    assert identity < woven < plain < 1.6 * identity  # blocks, attention scores and failures come on top


def test_files_are_smaller_than_pixels_and_larger_than_text():
    for sizes in loading.compressed().values():
        assert loading.text() < sizes["WebP"] < sizes["JPEG"] < sizes["PNG"] < loading.raw()
    image, shown = loading.drawn_page()
    page = {
        kind: image_loader.bytes_per_patch(image, image_loader.encode(image, kind)) for kind in image_loader.FORMATS
    }
    assert page["PNG"] < page["JPEG"]  # print has few colours and sharp edges
    assert 1000 < shown < image.size


@pytest.mark.parametrize("dearer, verdict", [(0.05, Verdict.LOST), (1, Verdict.CONDITIONAL), (100, Verdict.HOLDS)])
def test_compression_is_called_for_where_storage_is_dear(dearer, verdict, monkeypatch):
    """By what JPEG leaves: in no reading, where the encoder trains alone, in all."""
    monkeypatch.setattr(loading, "PETABYTE_MONTH", dearer * loading.PETABYTE_MONTH)
    assert check_of("vis.compress")(CLAIMS["vis.compress"]).verdict is verdict


def test_the_smaller_the_training_the_more_its_input_weighs():
    pixels = [loading.strain(name, loading.raw()) for name in model.readings()]
    assert list(model.readings().values()) == sorted(model.readings().values(), reverse=True)
    assert (
        pixels == sorted(pixels)
        and pixels[0] < CLAIMS["vis.compress"].verdict["least_share"] < pixels[-2] < 1 < pixels[-1]
    )
    # Of the network and of storage, both in proportion to bytes.
    assert loading.strain("patches, encoder alone", loading.raw() / 10) == pytest.approx(pixels[-1] / 10)
    assert pixels[0] == pytest.approx(loading.storage_dollars() / model.tuning_dollars(8.0))


def test_the_input_would_be_dear_in_a_small_model(monkeypatch):
    monkeypatch.setattr(loading, "speed", lambda: 1e12)  # tokens a second of the cluster
    assert check_of("vis.io_low")(CLAIMS["vis.io_low"]).verdict is Verdict.LOST


@pytest.mark.parametrize(
    "outputs, verdict",
    [(["text", "image"], Verdict.PARTLY), (["text", "image", "audio"], Verdict.CONFIRMED)],
)
def test_what_gpt5_puts_out_decides(outputs, verdict, monkeypatch):
    changed = record("gpt5") | {"outputs": outputs}
    monkeypatch.setattr(public, "record", lambda key: changed if key == "gpt5" else record(key))
    assert check_of("vis.gpt5_gen")(CLAIMS["vis.gpt5_gen"]).verdict is verdict


def test_another_address_is_refuted():
    terms = Terms("meta.source", {"address": "example.org"}, "Another page.")
    other = dataclasses.replace(CLAIMS["meta.source"], verdict=terms)
    assert check_of("meta.source")(other).verdict is Verdict.REFUTED
