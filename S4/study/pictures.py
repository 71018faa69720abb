"""How well pictures that are not from MNIST are read: by kind of fault.

    python -m S4.study pictures          every kind, 200 pictures each; some minutes

Writes pictures.json beside this file, and its table into the README. The pictures are
made here: a digit from MNIST's *training* images, or of a font, drawn on a sheet, and
then what scanners and phones do to it.
"""

import io
import json
from functools import partial
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from ..notebook_file import NOTEBOOK, fill, load_definitions

RESULTS = Path(__file__).with_name("pictures.json")
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
FACES = "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "STIXGeneral", "cmr10"
HEIGHT, WIDTH = 360, 480  # of a sheet


# --- A sheet with a digit ------------------------------------------------------------


def handwritten(image, rng, height=200):
    """Draw an MNIST image, (28, 28) from 0 to 1, `height` pixels high: ink, 0 to 1."""
    rows, columns = np.nonzero(image > 0.2)
    box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    factor = height / max(box.shape)
    size = [max(round(length * factor), 1) for length in box.shape[::-1]]
    large = cv2.resize(np.pad(box, 1), size, interpolation=cv2.INTER_CUBIC)
    return placed(1 / (1 + np.exp(-12 * (large - 0.5))), rng)  # a pen's sharp edge


def printed(text, rng, height=200):
    """Draw `text` in one of the fonts: ink, 0 to 1."""
    font = ImageFont.truetype(str(FONTS / f"{rng.choice(FACES)}.ttf"), height)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(picture).text((2 - left, 2 - top), text, 255, font)
    factor = min(1, 300 / picture.height, 440 / picture.width)
    size = [round(length * factor) for length in picture.size]
    return placed(np.asarray(picture.resize(size)) / 255, rng)


def placed(ink, rng):
    """Put `ink` anywhere on an empty sheet, but not at its edge."""
    sheet, (height, width) = np.zeros((HEIGHT, WIDTH)), ink.shape
    top = rng.integers(15, max(HEIGHT - height - 15, 16))
    left = rng.integers(15, max(WIDTH - width - 15, 16))
    sheet[top : top + height, left : left + width] = ink
    return sheet


def inked(ink, paper=0.95, pen=0.15):
    """Ink on paper, as grey from 0 to 1."""
    return paper + (pen - paper) * ink


# --- What happens to it --------------------------------------------------------------


def saved(picture, *convert, **options):
    """The picture as it comes back from a file of the format `options` name."""
    file = io.BytesIO()
    as_image(picture).convert(*convert or ["L"]).save(file, **options)
    return Image.open(file)


def as_image(picture):
    return Image.fromarray((255 * np.clip(picture, 0, 1)).round().astype("uint8"))


def noisy(picture, rng, spread=0.03):
    return picture + spread * rng.standard_normal(picture.shape)


def lit(picture, rng, least=0.5):
    """Light falls off from one side to the other, down to the share `least`."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (x * np.cos(angle) + y * np.sin(angle)) / 1.42
    return picture * (least + (1 - least) * (ramp + 1) / 2)


def dark_corners(picture, rng):
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return picture * (1 - 0.25 * (x**2 + y**2))


def shaded(picture, rng, dark=0.6):
    """A shadow with a soft edge over about a third, its edge at any angle."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    edge = (x * np.cos(angle) + y * np.sin(angle) - 0.35) * 12
    return picture * (1 - (1 - dark) / (1 + np.exp(-edge)))


def ruled(picture, rng, squares=False, grey=0.65):
    """Lines on the paper, under the pen."""
    step, lined = rng.integers(34, 48), np.ones_like(picture)
    for start in range(rng.integers(step), HEIGHT, step):
        lined[start : start + 2] = grey
    for start in range(rng.integers(step), WIDTH, step) if squares else ():
        lined[:, start : start + 2] = grey
    return np.minimum(picture, lined)


def framed(picture, rng, inset=0):
    """A black frame, at the edge of the picture or inside it."""
    picture = picture.copy()
    for part in (np.s_[inset : inset + 6], np.s_[-inset - 6 : -inset or None]):
        picture[part, inset : WIDTH - inset] = 0.1
        picture[inset : HEIGHT - inset, part] = 0.1
    return picture


def dusty(picture, rng, specks=5):
    picture = np.ascontiguousarray(picture)
    for _ in range(specks):
        center = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        cv2.circle(picture, center, int(rng.integers(2, 5)), 0.2, -1)
    return picture


def on_its_side(picture, rng):
    """Stored turned, with the turn in its EXIF data, as phones do."""
    turn = {3: 180, 6: 90, 8: 270}
    orientation = rng.choice([3, 6, 8])
    turned = as_image(picture).rotate(int(turn[int(orientation)]), expand=True)
    exif = Image.Exif()
    exif[0x0112] = int(orientation)
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    return Image.open(file)


def blurred(picture, rng, spread=4):
    return cv2.GaussianBlur(picture, (0, 0), spread)


def tilted(picture, rng):
    """Seen from an angle: two corners of the sheet come nearer."""
    corners = np.float32([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
    moved = corners + rng.uniform(-35, 35, (4, 2)).astype("float32")
    matrix = cv2.getPerspectiveTransform(corners, moved)
    options = {"borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpPerspective(picture, matrix, (WIDTH, HEIGHT), **options)


def on_a_table(picture, rng, dark=0.3):
    """The sheet lies, a little turned, on a dark table."""
    size = round(0.75 * WIDTH), round(0.75 * HEIGHT)
    sheet = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    seen = noisy(np.full((HEIGHT, WIDTH), dark), rng)
    left, top = rng.integers(10, (WIDTH - size[0] - 10, HEIGHT - size[1] - 10))
    seen[top : top + size[1], left : left + size[0]] = sheet
    middle, angle = (WIDTH / 2, HEIGHT / 2), rng.uniform(-8, 8)
    turn = cv2.getRotationMatrix2D(middle, angle, 1)
    options = {"borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpAffine(seen, turn, (WIDTH, HEIGHT), **options)


def colored(picture, rng):
    """Blue ink on yellow paper."""
    ink = (0.95 - picture)[..., None] / 0.8
    paper, pen = np.array([0.95, 0.9, 0.6]), np.array([0.1, 0.15, 0.5])
    return paper + (pen - paper) * ink


def transparent(picture, rng):
    """Black ink on nothing."""
    image = Image.new("LA", (WIDTH, HEIGHT))
    image.putalpha(as_image((0.95 - picture) / 0.8))
    return image


def several(*faults):
    """Return one fault made of `faults`, one after the other."""

    def all_of_them(picture, rng):
        for fault in faults:
            picture = fault(picture, rng)
        return as_image(picture)

    return all_of_them


CLEAN = {
    "as drawn": several(),
    "white on black": lambda picture, rng: as_image(1 - picture),
    "pencil on grey": lambda picture, rng: as_image(0.7 - 0.35 * (0.95 - picture)),
    "blue on yellow": several(colored),
    "JPEG": lambda picture, rng: saved(picture, format="JPEG", quality=60),
    "GIF": lambda picture, rng: saved(picture, "P", format="GIF"),
    "BMP": lambda picture, rng: saved(picture, format="BMP"),
    "WebP": lambda picture, rng: saved(picture, "RGB", format="WEBP"),
    "CMYK": lambda picture, rng: saved(picture, "CMYK", format="TIFF"),
    "16 bits": lambda picture, rng: (65535 * picture).astype("uint16"),
    "transparent": transparent,
}
FAULTY = {
    "noise of a sensor": several(noisy),
    "light from one side, 1 to 0.75": several(partial(lit, least=0.75)),
    "light from one side, 1 to 0.5": several(lit),
    "dark corners": several(dark_corners),
    "a shadow over a third": several(shaded),
    "lined paper": several(ruled),
    "squared paper": several(partial(ruled, squares=True)),
    "a frame at the edge": several(framed),
    "a frame inside": several(partial(framed, inset=10)),
    "five specks of dust": several(dusty),
    "turned, by EXIF": on_its_side,
    "1 bit a pixel, dithered": lambda picture, rng: saved(picture, "1", format="PNG"),
    "blurred": several(blurred),
    "from an angle": several(tilted),
    "on a dark table": several(on_a_table),
}
TOGETHER = {
    "light, lines and noise": several(ruled, lit, noisy),
    "shadow, squares and noise": several(partial(ruled, squares=True), shaded, noisy),
    "angle, lines, corners, noise": several(ruled, tilted, dark_corners, noisy),
}


# --- What is not one digit -----------------------------------------------------------


def empty(rng, images):
    picture = np.full((HEIGHT, WIDTH), rng.uniform(0.6, 0.97))
    faults = [ruled, partial(ruled, squares=True), lit, shaded, noisy, dark_corners]
    for fault in rng.permutation(faults)[: rng.integers(4)]:
        picture = fault(picture, rng)
    return as_image(picture)


def texture(rng, images):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    a, b = rng.uniform(0.02, 0.3, 2)
    cloud = cv2.GaussianBlur(rng.standard_normal(x.shape), (0, 0), rng.uniform(2, 25))
    rings = np.hypot(x - rng.uniform(0, WIDTH), y - rng.uniform(0, HEIGHT))
    waves = np.sin(a * x + b * y), np.sin(a * rings)
    checks = np.sign(np.sin(a * x) * np.sin(b * y))
    kinds = [cloud / np.abs(cloud).max(), *waves, checks]
    return as_image(0.5 + 0.3 * kinds[rng.integers(len(kinds))])


def piece_of_a_photo(rng, images):
    photo = load_sample_images().images[rng.integers(2)]
    height, width = rng.integers(60, 320), rng.integers(60, 400)
    top = rng.integers(photo.shape[0] - height)
    left = rng.integers(photo.shape[1] - width)
    return photo[top : top + height, left : left + width]


def two_digits(rng, images):
    sheet, left = np.zeros((HEIGHT, WIDTH)), 30
    for image in images[rng.integers(len(images), size=2)]:
        rows, columns = np.nonzero((drawn := handwritten(image, rng, 170)) > 0.1)
        box = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        top = 95 + rng.integers(-15, 15) + (170 - len(box)) // 2
        sheet[top : top + len(box), left : left + box.shape[1]] = box
        left += box.shape[1] + rng.integers(8, 50)
    return as_image(inked(sheet))


def letter(rng, images):
    """A printed letter that looks like no digit."""
    text = str(rng.choice([*"ACEFHJKLMNPRTUVWXYadefhkmnprtuvwxy"]))
    return as_image(inked(printed(text, rng, int(rng.integers(130, 230)))))


NOT_A_DIGIT = {
    "an empty sheet": empty,
    "a texture": texture,
    "a piece of a photograph": piece_of_a_photo,
    "two digits": two_digits,
    "a letter": letter,
}


# --- How they are read ---------------------------------------------------------------


def one_digit(rng, images, labels):
    """Return the ink of a digit, three of four by hand, and what it is."""
    height = int(rng.integers(130, 230))
    if rng.random() < 0.25:
        digit = int(rng.integers(10))
        return printed(str(digit), rng, height), digit
    number = rng.integers(len(images))
    return handwritten(images[number], rng, height), int(labels[number])


def measure(nb, net, data_dir, count, first_seed=0):
    """Return counts, a dict for each kind: pictures, right, warned, right_unwarned.

    `count` pictures of each kind, with seeds of their own from `first_seed` on.
    """
    images, labels = nb.split_data(data_dir, "test")[0]
    images = images[:, 0].cpu().numpy()
    groups = {"clean": CLEAN, "faulty": FAULTY, "together": TOGETHER}
    groups["not a digit"] = NOT_A_DIGIT
    found = []
    for group, kinds in groups.items():
        for kind, make in kinds.items():
            right, warned, right_unwarned = 0, 0, 0
            for number in range(first_seed, first_seed + count):
                rng, digit = np.random.default_rng([number, *kind.encode()]), None
                if group == "not a digit":
                    picture = make(rng, images)
                else:
                    ink, digit = one_digit(rng, images, labels)
                    picture = make(inked(ink), rng)
                probabilities, doubts, _ = nb.read_digit(picture, net)
                is_right = int(probabilities.argmax()) == digit
                right += is_right
                warned += bool(doubts)
                right_unwarned += is_right and not doubts
            row = {"group": group, "kind": kind, "pictures": count, "right": right}
            row |= {"warned": warned, "right_unwarned": right_unwarned}
            print(row, flush=True)
            found.append(row)
    return found


def measure_load_digits(nb, net, step=1):
    """Return the same for every `step`-th digit of scikit-learn, 8×8 pixels each."""
    digits, found = load_digits(), []
    for image, digit in zip(digits.images[::step], digits.target[::step], strict=True):
        probabilities, doubts, _ = nb.read_digit(image / 16, net)
        found.append((int(probabilities.argmax()) == digit, not doubts))
    right, sure = np.array(found).T
    row = {"group": "elsewhere", "kind": "scikit-learn's `load_digits`, 8×8 pixels"}
    row |= {"pictures": len(found), "right": int(right.sum())}
    return row | {
        "warned": int((~sure).sum()),
        "right_unwarned": int((right & sure).sum()),
    }


def table(found):
    """Return what was measured as a Markdown table."""
    lines = ["| Pictures | Read right | Warned of |", "|---|---|---|"]
    frame = pd.DataFrame(found)
    for group, rows in frame.groupby("group", sort=False):
        sums = rows[["pictures", "right", "warned", "right_unwarned"]].sum()
        total = {"group": group, "kind": f"**all that are {group}**"} | dict(sums)
        for row in [*rows.to_dict("records"), *([total] if len(rows) > 1 else [])]:
            right = "–" if group == "not a digit" else share(row, "right")
            lines.append(f"| {row['kind']} | {right} | {share(row, 'warned')} |")
    return "\n".join(lines)


def share(row, key):
    return f"{100 * row[key] / row['pictures']:.1f} %"


def sure_and_right(found):
    """Return the share of right answers among those without a warning, in percent."""
    digits = [row for row in found if row["group"] in ("clean", "faulty", "together")]
    sure = sum(row["pictures"] - row["warned"] for row in digits)
    return 100 * sum(row["right_unwarned"] for row in digits) / sure


def main():
    nb = load_definitions()
    net = nb.load_net(NOTEBOOK.with_name("net.pt"))
    found = measure(nb, net, NOTEBOOK.with_name("data"), 200)
    found.append(measure_load_digits(nb, net))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    path = NOTEBOOK.parents[1] / "README.md"
    readme = fill(path.read_text("utf-8"), "pictures", table(found))
    readme = fill(readme, "sure", f"{sure_and_right(found):.1f} %")
    path.write_text(readme, "utf-8", newline="\n")
