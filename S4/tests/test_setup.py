"""The notebook works with what the machine has: devices, packages, folders."""

import os
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from S4.notebook_file import NOTEBOOK, load_definitions

REAL_DEVICE = torch.device


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_cannot_be_used_is_passed_over(nb, kind, monkeypatch, capsys):
    """torch says that it is there; the first use fails, for it is not."""
    backend = torch.cuda if kind == "cuda" else torch.backends.mps
    monkeypatch.setattr(backend, "is_available", lambda: True)
    assert nb.find_device().type == "cpu"
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{kind} cannot be used: ") and len(said) > 30


def test_a_device_that_fails_late_is_passed_over(nb, monkeypatch, capsys):
    """An old card: everything is queued, and the error comes when a value is read."""

    def fail(self):
        monkeypatch.undo()
        raise RuntimeError("CUDA error: no kernel image is available\nFor debugging …")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "device", lambda kind: REAL_DEVICE("cpu"))
    monkeypatch.setattr(torch.Tensor, "item", fail)
    assert nb.find_device().type == "cpu"
    assert capsys.readouterr().out.splitlines() == [
        "mps cannot be used: RuntimeError: CUDA error: no kernel image is available"
    ]


def test_where_no_device_works_the_needed_version_is_named(nb, monkeypatch, capsys):
    """torch before 2.6, on a Mac with an Intel processor, has no fused SGD there."""
    monkeypatch.delattr(torch.optim.SGD, "step")
    with pytest.raises(RuntimeError, match=r"PyTorch 2\.6 or newer is needed; this is"):
        nb.find_device()


@pytest.fixture
def summary_cell(nb, notebook, monkeypatch):
    """A function that runs torchsummary's cell where that package is not installed.

    Python and pip are real but for the one command, which is `pip` instead.
    """
    (cell,) = (c for c in notebook.cells if "import summary" in c.source)
    for name in [name for name in sys.modules if name.startswith("torchsummary")]:
        monkeypatch.delitem(sys.modules, name)
    path = [p for p in sys.path if not Path(p, "torchsummary").is_dir()]
    monkeypatch.setattr(sys, "path", path)

    def run(pip):
        monkeypatch.setattr(nb.subprocess, "run", pip)
        exec(cell.source, dict(vars(nb)))
        sys.modules.pop("torchsummary", None)

    return run


def test_without_torchsummary_one_line_says_so(summary_cell, capsys):
    """Offline, or an environment of uv, which has no pip."""
    summary_cell(lambda command, capture_output: SimpleNamespace(returncode=1))
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith("its list is skipped.")


def test_torchsummary_is_found_where_pip_puts_it(
    summary_cell, monkeypatch, tmp_path, capsys
):
    """The user's own folder, which is not on the path if it is new."""
    folder = tmp_path / "lib" / "site-packages"

    def pip(command, capture_output):
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        folder.mkdir(parents=True)
        code = "def summary(net, size, device): print('summary', size, device)"
        (folder / "torchsummary.py").write_text(code, "utf-8")

    monkeypatch.setattr(site, "getusersitepackages", lambda: str(folder))
    summary_cell(pip)
    assert capsys.readouterr().out == "summary (1, 28, 28) cpu\n"


def test_where_nothing_can_be_written_files_go_elsewhere(nb, monkeypatch, capsys):
    """As on Kaggle, outside its working folder: the system refuses any file there."""

    def refuse(path, mode=0o666, exist_ok=True):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    elsewhere = load_definitions()
    folder = Path(tempfile.gettempdir())
    assert elsewhere.output_dir == folder
    assert "Read-only file system" in capsys.readouterr().out
    assert nb.output_dir == Path()


def test_a_console_that_knows_ascii_only_shows_substitutes():
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "S4.study", "list"],
        cwd=NOTEBOOK.parents[1],
        env=os.environ | plain,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and b"?" in done.stdout
