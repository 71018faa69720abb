"""The whole notebook runs, as a learner would run it, in a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import papermill
import pytest
import torch

from S4.notebook_file import NOTEBOOK, check_clean, execute, printed, read_notebook

QUICK = {"epochs": 1, "train_limit": 600}


@pytest.fixture
def run(tmp_path, data_dir):
    """Execute a notebook quickly in a temporary folder; return the executed copy."""

    def run(source=NOTEBOOK, **parameters):
        parameters = {**QUICK, "data_dir": str(data_dir), **parameters}
        return execute(source, tmp_path / "out.ipynb", parameters)

    return run


def all_printed(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(printed(cell) for cell in cells)


def test_a_quick_run_is_clean_and_leaves_its_record(nb, run, tmp_path, data_dir):
    committed = NOTEBOOK.read_bytes()
    check_clean(run())
    record = SimpleNamespace(**json.loads((tmp_path / "result.json").read_text()))
    (row,) = record.rows
    assert row["epoch"] == 1 and record.verdict.startswith("A TRIAL")
    assert (record.seed, record.train_limit) == (nb.seed, 600)
    assert record.settings == nb.settings_of(nb.recipe) | {"epochs": 1}
    net = nb.Net(nb.dropout)
    net.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    _, (images, labels) = nb.split_data(data_dir, "test")
    predicted = nb.predict_batches(net, images).argmax(dim=1)
    assert record.misread == (predicted != labels).nonzero().squeeze(1).tolist()
    assert row["eval_accuracy"] == pytest.approx(100 - len(record.misread) / 100)
    assert NOTEBOOK.read_bytes() == committed


def test_console_and_environment_do_not_decide(data_dir):
    """A console that knows ASCII only, and a backend that shows no pictures."""
    folder = NOTEBOOK.with_name("runs") / "test"
    command = [sys.executable, NOTEBOOK.with_name("run.py"), "--name", "test"]
    for name, value in QUICK.items():
        command += ["-p", name, str(value)]
    changes = {"PYTHONIOENCODING": "ascii", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=os.environ | changes, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"? fewer than 20 epochs" in done.stdout
    cells = read_notebook(folder / "run.ipynb").cells
    drawn = [o for c in cells for o in c.get("outputs", []) if "data" in o]
    assert sum("image/png" in output.data for output in drawn) >= 10
    shutil.rmtree(folder)


def test_an_unknown_parameter_is_refused():
    command = [sys.executable, NOTEBOOK.with_name("run.py"), "-p", "sed", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "the parameters cell has no sed" in done.stderr


def test_an_interrupted_run_keeps_its_rows_and_ends_without_an_error(run, tmp_path):
    notebook = read_notebook()
    (index,) = (
        i
        for i, c in enumerate(notebook.cells)
        if "training" in c.metadata.get("tags", [])
    )
    interrupt = """
whole_run = train

def train(*arguments):
    yield next(whole_run(*arguments))
    raise KeyboardInterrupt
"""
    notebook.cells.insert(index, nbformat.v4.new_code_cell(interrupt))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    executed = run(tmp_path / "in.ipynb", epochs=2)
    check_clean(executed)
    assert "Interrupted: 1 of 2 epochs are finished" in all_printed(executed)
    assert "INCOMPLETE: 1 of 2 epochs" in all_printed(executed)
    assert not (tmp_path / "net.pt").exists()
    assert not (tmp_path / "result.json").exists()


def test_a_broken_rule_stops_the_run_before_training(run, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="20 epochs"):
        run(epochs=20)
    stopped = read_notebook(tmp_path / "out.ipynb")
    assert "train loss" not in all_printed(stopped)
    assert not (tmp_path / "net.pt").exists()
