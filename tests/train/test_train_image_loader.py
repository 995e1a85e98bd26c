"""The loader of images: patches that can be put together again, files that decode, and a speed that adds up."""

import numpy as np
import pytest
from anatomy.memo import closure
from anatomy.train import image_loader as loader
from hypothesis import given
from hypothesis import strategies as st


def noise(height: int, width: int) -> loader.Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), patch=st.integers(1, 8), rest=st.integers(0, 7))
def test_patches_are_the_pixels_in_place(rows, columns, patch, rest):
    image = noise(rows * patch + rest % patch, columns * patch)
    made = loader.patches(image, patch)
    assert made.shape == (rows * columns, patch * patch * 3)
    for index, values in enumerate(made):
        top, left = index // columns * patch, index % columns * patch
        assert np.array_equal(values.reshape(patch, patch, 3), image[top : top + patch, left : left + patch])


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"patches\.image has 9 x 30 pixels; allowed: at least 14"):
        loader.patches(noise(9, 30))


def test_photographs_are_those_of_scikit_learn():
    found = loader.photographs()
    assert set(found) == {"china", "flower"}
    assert all(image.shape == (427, 640, 3) and image.dtype == np.uint8 for image in found.values())


@pytest.mark.parametrize("kind", loader.FORMATS)
def test_files_decode_to_what_they_hold(kind):
    for image in loader.photographs().values():
        data = loader.encode(image, kind)
        back = loader.decode(data)
        assert back.shape == image.shape
        near = loader.psnr(image, back)
        assert near == float("inf") if kind == "PNG" else near > 29
        assert loader.bytes_per_patch(image, data) == pytest.approx(len(data) / (427 * 640 / 196))


def test_higher_quality_is_nearer_and_larger():
    image = loader.photographs()["china"]
    for kind in ("JPEG", "WebP"):
        files = [loader.encode(image, kind, quality=quality) for quality in (30, 60, 90)]
        assert sorted(map(len, files)) == list(map(len, files))
        errors = [loader.psnr(image, loader.decode(data)) for data in files]
        assert sorted(errors) == errors


def test_components_of_another_photograph_lose_less_the_more_there_are():
    photographs = loader.photographs()
    near = []
    for count in (1, 12, 147, 588):
        back, was = loader.components(photographs["china"], photographs["flower"], count)
        assert back.shape == was.shape == (420, 630, 3) and was.base is photographs["flower"]
        near.append(loader.psnr(was, back))
    assert sorted(near) == near and near[0] > 10 and near[-1] > near[0] + 10


def test_components_of_patches_on_a_line_keep_the_image():
    """Patches of one colour each are a point on a line: one byte brings them back, but for its step."""
    grey = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    grey[0, :2] = 0, 255
    image = np.repeat(np.kron(grey, np.ones((4, 4), np.uint8))[:, :, None], 3, axis=2)
    back, was = loader.components(image, image, 1, patch=4)
    assert np.abs(back.astype(int) - was).max() <= 1
    with pytest.raises(ValueError, match=r"components\.count is 31; allowed: a whole number at least 1 and at most 30"):
        loader.components(image, image, 31, patch=4)


def test_another_pillow_is_measured_anew():
    """The version of what decodes is part of what the measurement rests on."""
    assert {"pillow", "numpy"} <= {name.lower() for name in closure(loader.speed).libraries}


def test_the_speed_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    first = loader.measured_speed("PNG")
    assert loader.measured_speed("PNG") == first and min(first) > 0
    assert loader.measured_speed("JPEG") != first


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"encode\.kind is 'GIF'; allowed: PNG, JPEG, WebP"):
        loader.encode(noise(8, 8), "GIF")


def test_psnr_of_a_known_error():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert loader.psnr(image, image + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    assert loader.psnr(image, image) == float("inf")


def test_the_middle_square_is_taken():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 200
    assert (loader.fit(image, 50) == 200).all()


def test_a_page_shows_the_text_that_it_counts():
    words = [f"word{n}" for n in range(2000)]
    image, shown = loader.page(" ".join(words))
    assert image.shape == (427, 640, 3) and image.min() < 64 and image.max() == 255
    assert 1000 < shown < len(" ".join(words))
    short, all_of_it = loader.page("two words")
    assert all_of_it == len("two words") and short.mean() > image.mean()  # more white


def test_the_parts_of_the_speed_make_the_whole():
    made = loader.speed(rounds=2)
    assert 1 / made.all == pytest.approx(sum(1 / part for part in made[:3]))
    assert all(part > made.all > 0 for part in made[:3])
