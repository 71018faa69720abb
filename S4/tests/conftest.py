"""What the tests share: the notebook's definitions, and MNIST on disk."""

import matplotlib
import pytest

from notebook_loader import NOTEBOOK, load_definitions

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def nb():
    """The notebook's definitions; tests that change them use monkeypatch."""
    return load_definitions()


@pytest.fixture(scope="session")
def data_dir(nb):
    """The folder of the real MNIST, fetched the notebook's way if it is missing."""
    folder = NOTEBOOK.with_name("data")
    nb.ensure_mnist(folder)
    return folder
