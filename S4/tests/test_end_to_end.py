"""The whole notebook runs, as a learner would run it, in a folder of its own."""

import json
from types import SimpleNamespace

import papermill
import pytest
import torch

from S4.notebook_file import NOTEBOOK, check_clean, execute, read_notebook, tagged

QUICK = {"epochs": 1, "train_limit": 600}


@pytest.fixture
def run(tmp_path, data_dir):
    """Execute a notebook quickly in a temporary folder; return the executed copy."""

    def run(source=NOTEBOOK, **parameters):
        parameters = {**QUICK, "data_dir": str(data_dir), **parameters}
        return execute(source, tmp_path / "out.ipynb", parameters)

    return run


def test_a_quick_run_is_clean_and_leaves_its_record(nb, run, tmp_path, data_dir):
    committed = NOTEBOOK.read_bytes()
    check_clean(run())
    record = SimpleNamespace(
        **json.loads((tmp_path / "result.json").read_text("utf-8"))
    )
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


def test_what_breaks_a_rule_stops_the_run_before_training(run, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="epochs is 20: use a"):
        run(epochs=20)
    stopped = read_notebook(tmp_path / "out.ipynb")
    assert tagged(stopped, "training").outputs == []
    assert not (tmp_path / "net.pt").exists()
