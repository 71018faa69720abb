"""The benchmark runs, and the README quotes what it measured."""

import json

import pytest
import torch

from S4.notebook_file import fill
from S4.study import bench, contestants, growth


@pytest.fixture(scope="module")
def results(nb, data_dir):
    """A trial on a few images: everything but the whole training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "WORKERS", (1,))
        return bench.measure(nb, 1, basic_epochs=2, run_all=False, limit=256)


def test_every_contestant_is_timed_in_every_repeat(results):
    epochs = results["epoch_seconds"]
    assert len(epochs) == 5 + len(bench.WORKERS) + contestants.HAS_FLAX
    assert all(len(seconds) == 1 for seconds in epochs.values())
    assert json.loads(json.dumps(results)) == results


def test_the_earlier_network_and_its_training_learn(nb, data_dir):
    """What is frozen still works: its figures are compared with ours."""
    train, judge = nb.split_data(data_dir, "test", train_limit=12_800)
    torch.manual_seed(0)
    earlier = contestants.Earlier(train, judge)
    for _ in range(2):
        earlier.epoch()
    assert sum(weight.numel() for weight in earlier.net.parameters()) == 18_778
    assert earlier.accuracy > 80


def test_workers_are_started_once_even_where_they_cannot_be_forked(nb, data_dir):
    """Windows and macOS spawn them: each imports everything anew."""
    fed = contestants.PerPicture(nb.device, data_dir, workers=1, limit=64)
    fed.loader.multiprocessing_context = "spawn"
    fed.test_loader.multiprocessing_context = "spawn"
    workers = []
    for _ in range(2):
        fed.epoch()
        workers.append([worker.pid for worker in fed.loader._iterator._workers])
    assert workers[0] == workers[1]


def test_the_basic_example_is_the_one_that_is_described(results):
    assert results["basic"]["parameters"] == 1_199_882
    assert results["basic"]["epochs"] == 2


def test_the_floor_counts_the_convolutions_work(nb, results):
    judging = sum(row["multiply_adds"] for row in nb.layer_table(nb.Net(0)))
    expected = 0
    for epoch in range(1, nb.epochs + 1):
        table = nb.layer_table(nb.Net(0), 28 - 2 * nb.margin(epoch, nb.epochs))
        # Backward needs two products for each forward one; the first layer only one.
        work = (
            3 * sum(row["multiply_adds"] for row in table) - table[0]["multiply_adds"]
        )
        expected += 2 * (60_000 * work + 10_000 * judging)
    assert results["floor"]["operations"] == pytest.approx(
        expected / nb.epochs, rel=0.001
    )


def test_ours_is_the_mean_over_a_run(nb, results):
    seconds = results["epoch_seconds"]
    total = 0
    for epoch in range(1, nb.epochs + 1):
        size = 28 - 2 * nb.margin(epoch, nb.epochs)
        total += seconds[bench.SIZE.format(size)][0]
    assert seconds[bench.OURS] == [pytest.approx(total / nb.epochs)]


def test_ratios_are_taken_within_each_repeat():
    epochs = {bench.OURS: [1.0, 4.0, 2.0], "other": [2.0, 8.0, 20.0]}
    table = bench.epoch_table({"epoch_seconds": epochs, "floor": {"seconds": 0.5}})
    assert "| other | 8.0 | 0.50 | 0.10–0.50 |" in table
    assert "| the floor | 0.5 | 4.0 | |" in table


def test_growth_is_compared_with_its_ideal(results):
    found = results["growth"]
    images, threads = found["training images"], found["threads"]
    assert images["values"] == [64, 128, 256]
    assert images["ideal"][0] == pytest.approx(images["seconds"][-1] / 4)
    assert threads["ideal"] == [threads["seconds"][0], threads["seconds"][0] / 2]
    assert set(found["batch size"]["ideal"]) == {found["batch size"]["seconds"][1]}
    narrow, usual, wide = found["width"]["ideal"]
    assert narrow < usual < wide
    assert found["study workers"]["runs_per_hour"][0] > 0


def test_run_all_is_divided_into_its_parts(notebook):
    """The seconds are made up: each cell takes one."""
    copied = notebook.copy()
    copied["cells"] = [cell.copy() for cell in notebook.cells]
    for cell in copied.cells:
        cell["metadata"] = {"papermill": {"duration": 1.0}}
    parts = bench.seconds_by_part(copied)
    assert sum(parts.values()) == len(notebook.cells)
    assert [name for name in parts if "raining" in name] == ["7. Training"]
    assert list(parts)[-1].startswith("Part two")


def test_the_readme_quotes_the_results(readme):
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    for name, table in bench.tables(results).items():
        assert fill(readme, name, table) == readme
