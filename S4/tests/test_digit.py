"""Any picture of a digit is prepared as MNIST was; what is no picture is one error."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from S4.notebook_file import NOTEBOOK

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
NET = NOTEBOOK.with_name("net.pt")


@pytest.fixture(scope="module")
def net(nb):
    return nb.load_net(NET)


def drawn(digit, font="DejaVuSans", size=100, at=(60, 20), paper="white", ink="black"):
    """A PIL picture of a digit."""
    picture = Image.new("RGB", (200, 160), paper)
    type_ = ImageFont.truetype(str(FONTS / f"{font}.ttf"), size)
    ImageDraw.Draw(picture).text(at, str(digit), font=type_, fill=ink)
    return picture


def reads(nb, net, *pictures):
    """What the network takes the pictures for."""
    with torch.inference_mode():
        batch = torch.cat([nb.prepare_digit(picture) for picture in pictures])
        return net(batch).argmax(dim=1).tolist()


SANS = "DejaVuSans", "DejaVuSansMono-Bold"


@pytest.mark.parametrize("font", [*SANS, "DejaVuSerif-Italic", "STIXGeneral", "cmr10"])
def test_printed_digits_are_read(nb, net, font):
    pictures = [drawn(digit, font) for digit in range(10)]
    assert reads(nb, net, *pictures) == list(range(10))


def test_strokes_are_read(nb, net):
    seven, one, zero = (Image.new("L", (300, 400)) for _ in range(3))
    ImageDraw.Draw(seven).line([(60, 60), (240, 60), (120, 340)], 255, width=25)
    ImageDraw.Draw(one).line([(170, 40), (140, 360)], 255, width=25)
    ImageDraw.Draw(zero).ellipse([70, 40, 230, 360], outline=255, width=25)
    assert reads(nb, net, seven, one, zero) == [7, 1, 0]


def test_a_thin_pen_writes_white(nb):
    picture = Image.new("L", (1000, 1000), "white")
    ImageDraw.Draw(picture).line([(200, 100), (800, 900)], "black", width=3)
    brightest = nb.prepare_digit(picture).max() * nb.STD + nb.MEAN
    assert brightest == pytest.approx(1)


def test_size_place_and_colours_hardly_matter(nb):
    expected = nb.prepare_digit(drawn(3, paper="black", ink="white"))
    same = [drawn(3), drawn(3, at=(5, 5)), drawn(3, paper="gold", ink="navy")]
    for picture in [*same, drawn(3).resize((600, 480)), drawn(3).resize((100, 80))]:
        difference = (nb.prepare_digit(picture) - expected).abs() * nb.STD
        assert difference.mean() < 0.03


def test_the_same_picture_is_the_same_whatever_holds_it(nb, tmp_path):
    picture = drawn(2)
    picture.save(tmp_path / "two.png")
    expected, array = nb.prepare_digit(picture), np.asarray(picture)
    kinds = [tmp_path / "two.png", str(tmp_path / "two.png")]
    kinds += [picture.convert("P"), picture.convert("LA"), array, array[..., 0]]
    kinds += [array.astype("float32") / 255, array.astype("uint16") * 257]
    kinds += [torch.as_tensor(array.copy()).permute(2, 0, 1)]
    for ink in (0, 255):  # on transparent paper
        transparent = Image.new("RGBA", picture.size, (ink,) * 3)
        transparent.putalpha(drawn(2, paper="black", ink="white").convert("L"))
        kinds += [transparent, np.asarray(transparent).astype("uint16") * 257]
    for same in kinds:
        torch.testing.assert_close(nb.prepare_digit(same), expected, atol=0.05, rtol=0)


def test_it_is_how_mnist_was_made(nb, data_dir):
    """MNIST's own pictures, prepared again, stay what they are."""
    _, (images, _) = nb.split_data(data_dir, "test")
    for image in images[:50]:
        again = nb.prepare_digit((image[0] * nb.STD + nb.MEAN).clamp(0, 1))
        assert ((again - image).abs() * nb.STD).mean() < 0.01


@pytest.mark.parametrize(
    "image, error",
    [
        (np.zeros((50, 40)), "The picture is empty"),
        (np.full((9, 9, 3), 200, "uint8"), "The picture is empty"),
        (np.zeros((1, 1)), "The picture is empty"),
        (np.zeros(7), "is not a picture"),
        (np.zeros((0, 5)), "is not a picture"),
        (np.zeros((5, 5, 5)), "is not a picture"),
        ("none.png", r"none\.png cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_of_a_digit_is_one_clear_error(nb, image, error):
    with pytest.raises(ValueError, match=error):
        nb.prepare_digit(image)


def test_a_damaged_file_is_one_clear_error(nb, tmp_path):
    for content in (b"", b"not a picture", b"\x89PNG\r\n\x1a\nbroken"):
        (tmp_path / "digit.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"digit\.png cannot be read as a pict"):
            nb.prepare_digit(tmp_path / "digit.png")


def test_predict_draws_what_it_returns(nb):
    probabilities = nb.predict(drawn(8), NET)
    heights = [bar.get_height() for bar in plt.gcf().axes[1].patches]
    plt.close()
    assert heights == pytest.approx(probabilities.tolist())
    assert sum(heights) == pytest.approx(1) and probabilities.argmax() == 8


def test_it_needs_no_training(nb, notebook, capsys, monkeypatch):
    """The definitions, net.pt and the cell itself are enough."""
    monkeypatch.chdir(NOTEBOOK.parent)
    (cell,) = (c for c in notebook.cells if "= predict(canvas)" in c.source)
    exec(cell.source, dict(vars(nb)))
    plt.close()
    assert capsys.readouterr().out == "It is taken for a 4.\n"


def test_without_weights_predict_says_what_to_do(nb, tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        nb.predict(drawn(8), tmp_path / "net.pt")


def test_the_readme_tells_how_handwriting_from_elsewhere_is_read(nb, net, readme):
    elsewhere = load_digits()
    found = reads(nb, net, *(elsewhere.images / 16))
    right = np.mean(np.equal(found, elsewhere.target))
    assert f"{right:.1%}".replace("%", " %") in readme
