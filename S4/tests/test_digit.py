"""Pictures of digits are read as people make them; what is no digit is told."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from S4.notebook_file import NOTEBOOK, fill
from S4.study import pictures

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
NET = NOTEBOOK.with_name("net.pt")


@pytest.fixture(scope="module")
def net(nb):
    return nb.load_net(NET)


def drawn(text, font="DejaVuSans", size=100, at=(60, 20), paper="white", ink="black"):
    """A PIL picture of a digit."""
    picture = Image.new("RGB", (200, 160), paper)
    type_ = ImageFont.truetype(str(FONTS / f"{font}.ttf"), size)
    ImageDraw.Draw(picture).text(at, str(text), font=type_, fill=ink)
    return picture


def reads(nb, net, *given):
    """What the network takes the pictures for."""
    return [int(nb.read_digit(picture, net)[0].argmax()) for picture in given]


SANS = "DejaVuSans", "DejaVuSansMono-Bold"


@pytest.mark.parametrize("font", [*SANS, "DejaVuSerif-Italic", "STIXGeneral", "cmr10"])
def test_printed_digits_are_read(nb, net, font):
    given = [drawn(digit, font) for digit in range(10)]
    assert reads(nb, net, *given) == list(range(10))


def test_strokes_are_read_whatever_their_width(nb, net):
    for width in (4, 25, 45):
        seven, one, zero = (Image.new("L", (300, 400)) for _ in range(3))
        ImageDraw.Draw(seven).line([(60, 60), (240, 60), (120, 340)], 255, width)
        ImageDraw.Draw(one).line([(170, 40), (140, 360)], 255, width)
        ImageDraw.Draw(zero).ellipse([70, 40, 230, 360], outline=255, width=width)
        assert reads(nb, net, seven, one, zero) == [7, 1, 0], width


def test_small_pictures_may_hold_smaller_digits(nb, net):
    for size in ((140, 112), (119, 95), (80, 64), (62, 50)):
        given = [drawn(n, size=50, at=(80, 50)).resize(size) for n in range(10)]
        assert reads(nb, net, *given) == list(range(10)), size


def test_a_small_picture_may_have_a_frame_or_half_a_shadow(nb, net):
    for size in (28, 60, 100):
        for digit in range(10):
            square = drawn(digit, at=(65, 25)).crop((20, 0, 180, 160))
            framed = ImageOps.expand(square.resize((size - 2, size - 2)), 1, "black")
            assert reads(nb, net, framed) == [digit], size
    shade = np.where(np.arange(110) < 50, 0.6, 1)[:, np.newaxis, np.newaxis]
    for digit in range(10):
        cell = np.asarray(drawn(digit).resize((110, 88))) / 255
        assert reads(nb, net, cell * shade[:88]) == [digit]


def test_a_hard_shadow_is_no_stroke(nb, net):
    seven, one, zero = (Image.new("L", (300, 400), 255) for _ in range(3))
    ImageDraw.Draw(seven).line([(80, 80), (240, 80), (140, 340)], 115, 6)
    ImageDraw.Draw(one).line([(180, 60), (160, 340)], 115, 6)
    ImageDraw.Draw(zero).ellipse([90, 60, 230, 340], outline=115, width=6)
    light = np.where(np.arange(300) < 140, 0.65, 1)
    given = [np.asarray(pencil) / 255 * light for pencil in (seven, one, zero)]
    assert reads(nb, net, *given) == [7, 1, 0]


def test_a_one_as_tall_as_the_picture_is_no_line(nb, net):
    one = Image.new("L", (300, 400))
    ImageDraw.Draw(one).line([(162, 20), (138, 380)], 255, 10)
    probabilities, doubts, _ = nb.read_digit(one, net)
    assert probabilities.argmax() == 1 and not doubts


def test_the_same_picture_is_the_same_whatever_holds_it(nb, net, tmp_path):
    picture = drawn(2)
    picture.save(tmp_path / "two.png")
    array = np.asarray(picture)
    kinds = [tmp_path / "two.png", str(tmp_path / "two.png")]
    kinds += [picture.convert("P"), picture.convert("LA"), array, array[..., 0]]
    kinds += [array.astype("float32") / 255, array.astype("uint16") * 257]
    kinds += [np.asarray(picture.convert("1")).astype("uint8")]  # 0 and 1
    kinds += [array.astype("float32"), Image.fromarray(array[..., 0].astype("float32"))]
    kinds += [drawn(2, paper="black", ink="white"), drawn(2, paper="gold", ink="navy")]
    for ink in (0, 255):  # on transparent paper
        transparent = Image.new("RGBA", picture.size, (ink,) * 3)
        transparent.putalpha(drawn(2, paper="black", ink="white").convert("L"))
        kinds += [transparent, np.asarray(transparent).astype("uint16") * 257]
    seen = nb.read_digit(picture, net)[2]["28×28"]
    for same in kinds:
        probabilities, doubts, steps = nb.read_digit(same, net)
        assert probabilities.argmax() == 2 and not doubts
        assert np.abs(steps["28×28"] - seen).mean() < 0.02


def test_it_is_how_mnist_was_made(nb, net, data_dir):
    """MNIST's own pictures, prepared again, stay what they are."""
    _, (images, labels) = nb.split_data(data_dir, "test")
    grey = images[:50, 0].numpy()
    assert reads(nb, net, *grey) == labels[:50].tolist()
    again = np.array([nb.read_digit(image, net)[2]["28×28"] for image in grey])
    assert np.abs(again - grey).mean() < 0.08
    moved = np.roll(grey, 1, axis=2)  # what a pixel more to the right would cost
    assert np.abs(again - grey).mean() < np.abs(moved - grey).mean()


def test_every_kind_of_picture_is_read_and_doubted_as_the_readme_says(
    nb, net, data_dir
):
    """Fewer pictures than the README's table is made of, and other ones."""
    found = pictures.measure(nb, net, data_dir, 12, first_seed=10**6)
    frame = pd.DataFrame(found).set_index("kind")
    digits = frame[frame["group"] != "not a digit"]
    assert (digits["right"] >= 10).all(), digits
    sums = frame.groupby("group").sum()
    right, warned = sums["right"] / sums["pictures"], sums["warned"] / sums["pictures"]
    assert right["clean"] > 0.98 and right["faulty"] > 0.95 and right["together"] > 0.9
    assert warned["clean"] < 0.04 and max(warned["faulty"], warned["together"]) < 0.1
    assert pictures.sure_and_right(found) > 98
    others = frame.query("group == 'not a digit' and kind != 'a letter'")
    assert (others["warned"] >= 10).all(), others


def test_the_readmes_table_is_that_of_the_measurement(nb, net, readme):
    found = pd.read_json(pictures.RESULTS).to_dict("records")
    assert fill(readme, "pictures", pictures.table(found)) == readme
    sure = f"{pictures.sure_and_right(found):.1f} %"
    assert fill(readme, "sure", sure) == readme
    for row in found:  # what was promised of each kind
        share = row["right"] / row["pictures"]
        least = {"clean": 0.99, "faulty": 0.95, "together": 0.9, "elsewhere": 0.95}
        assert share >= least.get(row["group"], 0), row
    sample = pictures.measure_load_digits(nb, net, step=10)
    share = sample["right"] / sample["pictures"]
    assert share == pytest.approx(found[-1]["right"] / found[-1]["pictures"], abs=0.03)


def test_what_is_wrong_with_a_picture_is_said(nb, net):
    whole = drawn(8, size=120)
    cases = {
        "nothing is written": Image.new("L", (300, 200), 230),
        "several digits": drawn("48", at=(20, 20)),
        "cut off by the edge": whole.crop((0, 0, 200, 95)),
        "too blurred": whole.resize((800, 640)).filter(ImageFilter.GaussianBlur(60)),
        "hardly any ink": drawn(8, ink=(250, 250, 250)),
    }
    for doubt, picture in cases.items():
        assert doubt in nb.read_digit(picture, net)[1], doubt


def test_an_unsure_answer_names_two_digits(nb):
    words = nb.in_words(torch.tensor([0.4, 0.6]), ["1 or 0"])
    assert words == "not sure (1 or 0), perhaps 1"
    assert nb.in_words(torch.tensor([0.01, 0.99]), []) == "1 (99%)"
    assert nb.in_words(torch.tensor([0.9]), [nb.EMPTY]) == f"not sure ({nb.EMPTY})"

    class Torn(torch.nn.Module):
        def forward(self, images):
            return torch.log(torch.tensor([[0.6] + 8 * [0.0] + [0.4]] * len(images)))

    assert nb.read_digit(drawn(8), Torn())[1] == ["0 or 9"]


@pytest.mark.parametrize(
    "image, error",
    [
        (np.zeros(7), "cannot be read as a picture"),
        (np.zeros((0, 5)), "cannot be read as a picture"),
        (np.zeros((5, 5, 5)), "cannot be read as a picture"),
        (np.full((5, 5), np.nan), "pixels are not numbers"),
        (np.array([[-np.inf, 1.0]]), "pixels are not numbers"),
        ("none.png", r"none\.png cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_one_clear_error(nb, net, image, error):
    with pytest.raises(ValueError, match=error):
        nb.read_digit(image, net)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (900, 2), (3, 3, 3), (28, 28)])
def test_empty_pictures_of_any_shape_hold_nothing(nb, net, shape):
    for grey in (0.0, 0.5, 1.0):
        assert nb.read_digit(np.full(shape, grey), net)[1] == [nb.EMPTY]


def test_a_damaged_file_is_one_clear_error(nb, net, tmp_path):
    for content in (b"", b"not a picture", b"\x89PNG\r\n\x1a\nbroken"):
        (tmp_path / "digit.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"digit\.png cannot be read as a pict"):
            nb.read_digit(tmp_path / "digit.png", net)


def test_the_steps_are_drawn(nb, net):
    probabilities, _, steps = nb.read_digit(drawn(8), net)
    nb.show_reading(probabilities, steps)
    *shown, bars = plt.gcf().axes
    plt.close()
    assert [axis.get_title() for axis in shown] == list(steps)
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx(probabilities.tolist())


def example(notebook):
    cells = [c.source for c in notebook.cells if c.cell_type == "code"]
    number = next(n for n, source in enumerate(cells) if "read_digit(photo" in source)
    return "\n".join(cells[number - 1 : number + 1])


def test_it_needs_no_training(nb, notebook, capsys, monkeypatch):
    """The definitions, net.pt and the cells themselves are enough."""
    monkeypatch.chdir(NOTEBOOK.parent)
    exec(example(notebook), dict(vars(nb)))
    plt.close()
    assert re.fullmatch(r"The answer: 4 \(\d+%\)\n", capsys.readouterr().out)


def test_without_opencv_one_line_says_what_to_install(
    nb, net, notebook, capsys, monkeypatch
):
    exec(example(notebook), vars(nb) | {"cv2": None})
    assert capsys.readouterr().out == nb.NO_OPENCV + "\n"
    monkeypatch.setattr(nb, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        nb.read_digit(drawn(8), net)


def test_without_weights_it_says_what_to_do(nb, tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        nb.load_net(tmp_path / "net.pt")


def test_the_command_reads_many_and_its_status_tells_errors(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    drawn(3).save(good)
    bad.write_text("no picture", "utf-8")

    def command(*paths):
        line = [sys.executable, NOTEBOOK.with_name("read.py"), *paths]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    code, said, _ = command(good)
    assert code == 0 and re.fullmatch(r".*good\.png: 3 \(\d+%\)\n", said)
    code, said, error = command(bad, good)
    assert code == 1 and "good.png: 3" in said and "bad.png cannot be read" in error
    for weights in (tmp_path / "none.pt", bad, tmp_path):
        code, _, error = command(good, "--weights", weights)
        assert code == 1 and "does not hold this network's weights" in error
