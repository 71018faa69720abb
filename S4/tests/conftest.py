"""What the tests share: the notebook's definitions, what is committed, and MNIST."""

import functools
import json
import os
import shutil
import signal
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is compared is computed on the CPU

import matplotlib
import pytest
import torch

from S4.notebook_file import NOTEBOOK, load_definitions, read_notebook

matplotlib.use("Agg")
torch.backends.mps.is_available = functools.cache(lambda: False)  # Apple, too
# Shells let what they start in the background ignore Ctrl-C; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nb():
    """The notebook's definitions; tests that change them use monkeypatch."""
    return load_definitions()


@pytest.fixture(scope="session")
def notebook():
    """The committed notebook."""
    return read_notebook()


@pytest.fixture(scope="session")
def prose(notebook):
    """The text of all the notebook's Markdown cells."""
    cells = (c.source for c in notebook.cells if c.cell_type == "markdown")
    return "\n".join(cells)


@pytest.fixture(scope="session")
def result():
    """The record of the committed run."""
    return json.loads(NOTEBOOK.with_name("result.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def readme():
    return NOTEBOOK.parents[1].joinpath("README.md").read_text("utf-8")


@pytest.fixture(scope="session")
def data_dir(nb):
    """The folder of the real MNIST, fetched the notebook's way if it is missing."""
    folder = NOTEBOOK.with_name("data")
    nb.split_data(folder, "test")
    return folder


@pytest.fixture
def subset(nb, data_dir):
    """The first 512 training images and labels."""
    return nb.split_data(data_dir, "test", train_limit=512)[0]


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser; where there is none, its tests are skipped."""
    if path := shutil.which("chromium") or shutil.which("google-chrome"):
        return path
    assert not os.environ.get("CI") or sys.platform != "linux", "CI needs chromium"
    pytest.skip("no chromium: install Debian's package of that name")
