"""The whole notebook runs, as a learner would run it, in a folder of its own."""

import nbformat
import papermill
import pytest
import torch

from notebook_loader import NOTEBOOK
from reading import check_clean, log, log_lines, summary, with_table
from run import execute

QUICK = {"epochs": 1, "train_limit": 600}


@pytest.fixture
def run(tmp_path, data_dir):
    """Execute a notebook quickly in a temporary folder; return the executed copy."""

    def run(source=NOTEBOOK, **parameters):
        parameters = {**QUICK, "data_dir": str(data_dir), **parameters}
        return execute(source, tmp_path / "out.ipynb", tmp_path, parameters)

    return run


def test_a_quick_run_is_clean_and_complete(nb, run, tmp_path, data_dir):
    committed = NOTEBOOK.read_bytes()
    notebook = run()
    check_clean(notebook)
    (line,) = log_lines(notebook)
    assert line["epoch"] == 1
    assert "A TRIAL" in log(notebook)
    assert summary(notebook)["Epochs"] == "1"
    net = nb.Net(nb.dropout)
    net.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    _, test_data = nb.split_data(data_dir, "test")
    _, accuracy = nb.evaluate(net, nb.make_loader(*test_data, 1000, shuffle=False))
    assert f"{accuracy:.2f}" == f"{line['test_accuracy']:.2f}"
    assert NOTEBOOK.read_bytes() == committed


def test_an_interrupted_run_ends_without_an_error(run, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (index,) = (
        i for i, cell in enumerate(notebook.cells) if "\nnet = fit(" in cell.source
    )
    interrupt = "def train_one_epoch(*arguments):\n    raise KeyboardInterrupt"
    notebook.cells.insert(index, nbformat.v4.new_code_cell(interrupt))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    executed = run(tmp_path / "in.ipynb")
    check_clean(executed)
    assert "INCOMPLETE: 0 of 1 epochs" in log(executed)
    assert "net.pt was not written" in log(executed)
    assert not (tmp_path / "net.pt").exists()


def test_a_broken_rule_stops_the_run_before_training(run, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="20 epochs"):
        run(epochs=20)
    stopped = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert log_lines(stopped) == [] and not (tmp_path / "net.pt").exists()


def test_result_tables_are_renewed_from_a_summary():
    old = "# T\n\n| | this run |\n|---|---|\n| Epochs | 3 |\n| Device | x |\n\nText."
    new = with_table(old, "this run", {"Epochs": "19", "Device": "CPU (2 threads)"})
    assert new == (
        "# T\n\n| | this run |\n|---|---|\n| Epochs | 19 |\n"
        "| Device | CPU (2 threads) |\n\nText."
    )
