"""The study trains on any Dask cluster, loses nothing, and reports what is there."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import report
import torch
import variants
from scipy import stats
from torch import nn

import study
from notebook_loader import NOTEBOOK

STUDY = NOTEBOOK.with_name("study")


@pytest.fixture
def cluster(tmp_path):
    """The address of a Dask scheduler, and its two workers: processes of their own."""
    where = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", where]
    scheduler = subprocess.Popen([*dask, "scheduler", "--no-show", *place], **quiet)
    worker = [*dask, "worker", "--scheduler-file", where, "--nthreads", "1"]
    worker += ["--no-nanny", "--no-dashboard", "--local-directory", tmp_path]
    # Not in the folder of the study: the workers get its code from the client.
    workers = [subprocess.Popen(worker, cwd=tmp_path, **quiet) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not where.exists():
        assert time.monotonic() < deadline, "the scheduler does not start"
        time.sleep(0.1)
    yield json.loads(where.read_text())["address"], workers
    for process in [*workers, scheduler]:
        process.kill()
        process.wait()


def command(results, data_dir, *options):
    """The command line of a small study of two variants."""
    arguments = ["run", "--variant", "recipe", "no dropout", "--results", results]
    arguments += ["--train-limit", "1000", "--data-dir", data_dir, *options]
    return [sys.executable, STUDY / "study.py", *map(str, arguments)]


def test_two_variants_on_a_cluster_reached_by_its_address(cluster, tmp_path, data_dir):
    address, workers = cluster
    results = tmp_path / "results.jsonl"
    options = ["--seeds", "1-2", "--epochs", "2", "--scheduler", address]
    studying = subprocess.Popen(
        command(results, data_dir, *options), stdout=subprocess.PIPE, text=True
    )
    while not results.exists() and studying.poll() is None:
        time.sleep(0.1)
    workers[0].send_signal(signal.SIGKILL)  # its run goes to the other one
    output, _ = studying.communicate(timeout=300)
    assert studying.returncode == 0 and "0 of 4 runs are done already" in output
    runs = study.read_results(results)
    found = {(run["variant"], run["seed"]) for run in runs}
    assert found == {(v, seed) for v in ("recipe", "no dropout") for seed in (1, 2)}
    assert all(len(run["history"]) == 2 and not run["failed"] for run in runs)
    again = subprocess.run(
        command(results, data_dir, *options), capture_output=True, text=True
    )
    assert "4 of 4 runs are done already" in again.stdout and again.returncode == 0


def train(variant, data_dir, seed=1):
    return variants.train(variant, seed, 1, "validation", data_dir, train_limit=256)


def test_a_run_is_the_notebooks_own(nb, data_dir):
    """The same seed gives what the notebook's cells give."""
    run = train("recipe", data_dir)
    train_data, judged = nb.split_data(data_dir, "validation", 256)
    torch.manual_seed(1)
    net = nb.to_device(nb.Net(nb.dropout), nb.device)
    history = []
    nb.fit(
        net,
        nb.make_loader(*train_data, nb.batch_size, shuffle=True),
        nb.make_loader(*judged, 1000, shuffle=False),
        history,
        {**nb.recipe, "epochs": 1},
    )
    for key in ("train_loss", "test_loss", "test_accuracy"):
        assert run["history"][0][key] == pytest.approx(history[0][key], rel=1e-4)
    assert run["parameters"] == sum(weight.numel() for weight in net.parameters())
    assert run["recipe"] == variants.recipe_id(nb) and run["split"] == "validation"


def test_another_recipe_has_another_id():
    ids = {
        variants.recipe_id(variants.load_definitions(**changes))
        for changes in ({}, {"max_lr": 0.1}, {"batch_size": 64}, {"max_shift": 2.0})
    }
    nb = variants.load_definitions(epochs=6)
    assert variants.recipe_id(nb) in ids and len(ids) == 4
    nb.Net = lambda dropout: nn.Sequential(nn.Conv2d(1, 10, 28))
    assert variants.recipe_id(nb) not in ids


def test_a_loss_that_is_not_finite_is_recorded(data_dir, monkeypatch):
    broken = variants.Variant("far too high", {"max_lr": 1e30})
    monkeypatch.setitem(variants.VARIANTS, "broken", broken)
    run = train("broken", data_dir)
    assert "Lower max_lr" in run["failed"] and run["history"] == []
    assert json.loads(json.dumps(run)) == run


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_variant_is_a_network_for_ten_digits(name):
    variant = variants.VARIANTS[name]
    nb = variants.load_definitions(**variant.parameters)
    if variant.edit:
        variant.edit(nb)
    net = nb.Net(nb.dropout)
    before = repr(net)
    if variant.rebuild:
        variant.rebuild(nb, net)
        assert repr(net) != before
    output = net(torch.randn(4, 1, 28, 28))
    assert output.shape == (4, 10)
    torch.testing.assert_close(output.exp().sum(dim=1), torch.ones(4))
    parameters = sum(weight.numel() for weight in net.parameters())
    assert parameters < 20_000 or "head" in name or "GAP" in name or "starting" in name


def test_the_starting_network_is_the_lessons():
    nb = variants.load_definitions()
    variants.VARIANTS["starting network"].edit(nb)
    net = nb.Net(0)
    assert sum(weight.numel() for weight in net.parameters()) == 6_379_786


def test_a_torn_last_line_is_reported_and_dropped(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    study.append_result({"variant": "first"}, results)
    whole = results.read_bytes()
    results.write_bytes(whole + b'{"variant": "sec')
    assert study.read_results(results) == [{"variant": "first"}]
    assert "torn" in capsys.readouterr().out and results.read_bytes() == whole
    study.append_result({"variant": "second"}, results)
    assert [run["variant"] for run in study.read_results(results)] == [
        "first",
        "second",
    ]
    assert capsys.readouterr().out == ""


def test_a_damaged_line_elsewhere_is_an_error(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"varia\n{}\n')
    with pytest.raises(ValueError):
        study.read_results(tmp_path / "results.jsonl")


def test_only_what_is_missing_is_trained(tmp_path):
    results = tmp_path / "results.jsonl"
    wanted = [
        {"variant": "recipe", "seed": seed, "epochs": 6, "split": "test"}
        | {"train_limit": None}
        for seed in (1, 2)
    ]
    study.append_result({**wanted[0], "recipe": "abc"}, results)
    assert study.missing(wanted, "abc", results) == wanted[1:]
    assert study.missing(wanted, "another", results) == wanted


@pytest.mark.parametrize("text, seeds", [("4", [4]), ("1-3", [1, 2, 3])])
def test_seeds_are_numbers_or_ranges(text, seeds):
    assert study.as_seeds(text) == seeds


def fake_run(variant, seed, accuracies, split="validation", failed=None):
    history = [
        {"epoch": epoch, "test_accuracy": accuracy}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    return {
        "recipe": "abc", "variant": variant, "seed": seed, "split": split,
        "epochs": 3, "train_limit": None, "parameters": 100, "failed": failed,
        "history": history, "seconds": 1.0, "device": "CPU", "torch": "2",
    }  # fmt: skip


def test_holding_means_from_then_on():
    assert report.holds_from(fake_run("recipe", 1, [99.5, 99.3, 99.4, 99.41])) == 3
    assert report.holds_from(fake_run("recipe", 1, [99.5, 99.3])) is None


def test_the_difference_is_welchs():
    """By Welch's formulas: variances 1 and 9, three values each."""
    shift, (low, high) = report.difference([2.0, 3.0, 4.0], [0.0, 3.0, 6.0])
    error = (1 / 3 + 9 / 3) ** 0.5
    freedom = (1 / 3 + 9 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (9 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * error
    assert shift == 0 and high == pytest.approx(half) and low == pytest.approx(-half)


@pytest.mark.parametrize(
    "number, text",
    [(0.054, "+0.05"), (-0.054, "−0.05"), (-0.004, "0.00"), (0.0, "0.00")],
)
def test_differences_carry_their_sign(number, text):
    assert report.signed(number) == text


def test_the_report_hides_no_failed_run(tmp_path):
    runs = [fake_run("recipe", s, [98 - s, 99.3, 99.5 + s / 100]) for s in (1, 2, 3)]
    runs += [fake_run("no dropout", s, [98, 99.2, 99.39 + s / 100]) for s in (1, 2)]
    runs += [fake_run("no dropout", 3, [], failed="The loss became nan")]
    runs += [fake_run("no BatchNorm", s, [], failed="nan") for s in (1, 2)]
    runs += [
        fake_run("recipe", s, [98, 99.3, 99.5 + s / 10], split="test") for s in (1, 2)
    ]
    for name in ("half as wide", "lean, 4,724", "starting network"):
        runs += [fake_run(name, 1, [98, 99, 99.2], split="test")]
        runs += [fake_run(name, 2, [98], split="test", failed="nan")]
    runs += [{**fake_run("half as wide", 1, [9], split="test"), "epochs": 1}]  # a trial
    runs += [{**fake_run("recipe", 1, [10, 10, 10]), "recipe": "an older one"}]
    report.write_report(runs, "abc", variants.VARIANTS, tmp_path)
    text = (tmp_path / "REPORT.md").read_text("utf-8")
    assert (
        "| no dropout | dropout 0 | 100 | 3 | 99.41 ± 0.01, 1 failed | −0.11 |" in text
    )
    assert "| no BatchNorm | biases in its place | 100 | 2 | 2 failed |" in text
    assert "| at or above 99.40 % | 2 of 2 |" in text
    assert text.count("| 2 | 99.20, 1 failed |") == 4  # the lean one in two tables
    assert "1 runs of other recipes" in text
    for picture in ("seeds", "epochs"):
        assert (tmp_path / "figures" / f"{picture}.png").stat().st_size > 5000


def test_a_failed_seed_is_counted():
    runs = [fake_run("recipe", s, [99.4, 99.5, 99.6]) for s in (1, 2)]
    runs += [fake_run("recipe", 3, [99.4], failed="nan")]
    facts = report.recipe_facts(runs)
    assert facts["seeds"] == 3 and facts["at or above 99.40 %"] == "2 of 3"
    assert facts["stay there from epoch"] == "1 runs never do"


def test_the_report_of_nothing_says_so(tmp_path):
    report.write_report([], "abc", variants.VARIANTS, tmp_path)
    assert (
        Path(tmp_path, "REPORT.md").read_text("utf-8").count("Not measured yet.") == 7
    )


def quoted(heading, facts):
    """The table that quotes `facts`."""
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    return f"| | {heading} |\n|---|---|\n{rows}"


def test_notebook_and_readme_quote_the_seeds(nb):
    runs = report.full_test_runs(study.read_results(), variants.recipe_id(nb))
    facts = report.recipe_facts(runs)
    table = quoted(report.SEEDS_HEADING, facts)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert any(table in f"{cell.source}\n" for cell in notebook.cells)
    assert table in study.README.read_text("utf-8")
    # README's first paragraph: "all of twenty seeds".
    assert facts["at or above 99.40 %"] == "20 of 20"


def test_the_readme_quotes_the_smallest_network(nb):
    recipe = variants.recipe_id(nb)
    runs = report.full_test_runs(study.read_results(), recipe, report.LEAN)
    table = quoted(report.LEAN_HEADING, report.lean_facts(runs))
    assert table in study.README.read_text("utf-8")
    # README's "whose mean is above 99.40 %".
    assert statistics.mean(report.last_accuracies(runs)) > report.TARGET


TABLE = """| Consideration | Measured | Why |
| **9. BatchNorm:** all; `conv3x3` | – | Why. |
| **14. Dropout:** 0.02; `block3` | stale | Why. |
| **20. Batch size:** 128; `make_loader` | – | Why. |"""


def test_a_measurement_is_bold_if_it_is_more_than_noise():
    runs = [fake_run("recipe", s, [98, 99, 99.5 + s / 100]) for s in (1, 2, 3)]
    runs += [fake_run("no dropout", s, [98, 99, 99.5 + s / 50]) for s in (1, 2, 3)]
    runs += [fake_run("dropout 0.1", s, [98, 99, 99 + s / 100]) for s in (1, 2, 3)]
    runs += [fake_run("no BatchNorm", 1, [], failed="nan")]
    runs += [fake_run("no BatchNorm", 2, [98, 99, 99])]
    filled = report.with_measurements(TABLE, runs).splitlines()
    assert filled[1] == TABLE.splitlines()[1].replace(
        "–", "no BatchNorm: 1 of 2 failed"
    )
    measured = "no dropout +0.02; dropout 0.1 **−0.50**"
    assert filled[2] == TABLE.splitlines()[2].replace("stale", measured)
    assert [filled[0], filled[3]] == [TABLE.splitlines()[0], TABLE.splitlines()[3]]


@pytest.fixture(scope="module")
def considerations():
    """The rows of the notebook's table of considerations, as lists of cells."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    rows = re.findall(r"^\| \*\*\d+\. .+ \|$", text, re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_every_measured_consideration_is_in_the_notebooks_table(considerations):
    names = {re.split(r"\. |:\*\*", row[0])[1] for row in considerations}
    assert names >= {*report.CONSIDERATIONS, report.EARLY}
    measured = {name for names in report.CONSIDERATIONS.values() for name in names}
    assert measured <= variants.VARIANTS.keys()


def test_the_notebook_quotes_the_measurements(nb, considerations):
    runs = report.ablation_runs(study.read_results(), variants.recipe_id(nb))
    emptied = [" | ".join([row[0], "–", row[2]]) for row in considerations]
    committed = "\n".join(map(" | ".join, considerations))
    assert report.with_measurements("\n".join(emptied), runs) == committed
    # The text around the table says so.
    seeds = {len(group) for group in report.by_variant(runs).values()}
    assert (seeds, report.ABLATION_EPOCHS) == ({3}, 6)


def test_curves_are_means_and_a_failed_variant_has_none():
    runs = [fake_run("recipe", s, [98, 99, 99.5 + s / 100]) for s in (1, 3)]
    runs += [fake_run("no BatchNorm", s, [97, 98, 99]) for s in (1, 2)]
    runs += [fake_run("dropout 0.1", 1, [], failed="nan")]
    runs += [fake_run("dropout 0.1", 2, [97, 98, 99])]
    runs += [fake_run("fewer layers", s, [97, 98, 99]) for s in (1, 2)]  # not drawn
    namespace = {}
    exec(report.study_cell(runs), namespace)
    assert namespace["STUDY"] == {
        "recipe": (98, 99, 99.52, 0.01),
        "no BatchNorm": (97, 98, 99, 0),
    }


def test_the_notebooks_curves_are_those_of_the_results(nb):
    runs = report.ablation_runs(study.read_results(), variants.recipe_id(nb))
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (cell,) = (c for c in cells if "study" in c.metadata.get("tags", []))
    assert cell.source == report.study_cell(runs)


def test_the_committed_report_is_that_of_the_results(nb, tmp_path):
    runs = study.read_results()
    report.write_report(runs, variants.recipe_id(nb), variants.VARIANTS, tmp_path)
    committed = (STUDY / "REPORT.md").read_text("utf-8")
    assert (tmp_path / "REPORT.md").read_text("utf-8") == committed
    for picture in re.findall(r"\]\((.*?\.png)\)", committed):
        assert (STUDY / picture).is_file()
