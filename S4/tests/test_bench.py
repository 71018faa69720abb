"""The benchmark runs, and the README quotes what it measured."""

import json

import pytest

from S4.notebook_file import fill
from S4.study import bench


@pytest.fixture(scope="module")
def results(nb, data_dir):
    """A trial on a few images: everything but the whole training."""
    return bench.measure(nb, 1, basic_epochs=2, run_all=False, limit=256)


def test_every_contender_is_timed_in_every_repeat(results):
    epochs = results["epoch_seconds"]
    assert len(epochs) == 2 + len(bench.WORKERS)
    assert all(len(seconds) == 1 for seconds in epochs.values())
    assert json.loads(json.dumps(results)) == results


def test_workers_are_started_once_even_where_they_cannot_be_forked(nb, data_dir):
    """Windows and macOS spawn them: each imports everything anew."""
    usual = bench.Usual(nb, workers=1, limit=64)
    usual.loader.multiprocessing_context = "spawn"
    usual.test_loader.multiprocessing_context = "spawn"
    workers = []
    for _ in range(2):
        usual.epoch()
        workers.append([worker.pid for worker in usual.loader._iterator._workers])
    assert workers[0] == workers[1]


def test_the_basic_example_is_the_one_that_is_described(results):
    assert results["basic"]["parameters"] == 1_199_882
    assert results["basic"]["epochs"] == 2


def test_the_floor_counts_the_convolutions_work(nb, results):
    forward = 0
    for row in nb.layer_table(nb.Net(0)):
        if row["kind"].startswith("Conv2d"):
            _, height, width = row["output"]
            weights = nb.Net(0).get_submodule(row["name"]).weight.numel()
            forward += 2 * weights * height * width
    # Backward needs two products for each forward one; the first layer only one.
    first = 2 * 72 * 26 * 26
    expected = 60_000 * (3 * forward - first) + 10_000 * forward
    assert results["floor"]["operations"] == pytest.approx(expected, rel=0.001)


def test_ratios_are_taken_within_each_repeat():
    epochs = {bench.OURS: [1.0, 4.0, 2.0], "other": [2.0, 8.0, 20.0]}
    table = bench.epoch_table({"epoch_seconds": epochs, "floor": {"seconds": 0.5}})
    assert "| other | 8.0 | 2.0–20.0 | 0.50 |" in table
    assert "| the floor | 0.5 | | 4.0 |" in table


def test_the_readme_quotes_the_results(readme):
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert fill(readme, "epochs", bench.epoch_table(results)) == readme
    assert fill(readme, "besides", bench.fact_table(results)) == readme
