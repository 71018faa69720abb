"""What is committed is clean, agrees with itself, and keeps its promise."""

import itertools
import math
import re
import sys

import nbformat
import pytest
import torch
import yaml
from scipy.stats import binomtest

from run import log_table, result_table
from S4.notebook_file import NOTEBOOK, check_clean, fill, picture, printed, tagged


def test_the_notebook_is_clean(notebook):
    nbformat.validate(notebook)
    check_clean(notebook)
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.metadata.colab == {"gpuType": "T4", "provenance": []}


def test_no_machines_paths_are_in_it():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:root|home|tmp|work|Users|mnt)/\w", text)


def test_it_imports_only_what_colab_has(notebook):
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    allowed = {"torch", "torchvision", "torchsummary", "tqdm", "matplotlib", "numpy"}
    allowed |= {"PIL"}  # comes with matplotlib; OpenCV may be missing
    assert imported <= allowed | sys.stdlib_module_names


def test_the_run_is_the_exercises_at_the_first_seed(nb, result):
    assert result["settings"] == nb.settings_of(nb.recipe)
    for source in (vars(nb), result):
        assert [source[n] for n in ("seed", "judge_on")] == [1, "test"]
        assert source["train_limit"] is None


def test_the_record_tells_each_epoch_once(nb, result):
    rows = result["rows"]
    assert [row["epoch"] for row in rows] == list(range(1, nb.epochs + 1))
    assert nb.epochs < 20
    assert all(math.isfinite(number) for row in rows for number in row.values())
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))


def test_the_last_epochs_meet_the_bar(nb, result):
    last_three = [row["eval_accuracy"] for row in result["rows"][-3:]]
    assert min(last_three) >= 99.40
    assert last_three[-1] >= 99.50
    assert result["verdict"] == nb.verdict(result["rows"], nb.epochs)
    assert result["verdict"] == "ALL RULES ARE MET."


def test_the_log_is_that_of_the_record(nb, notebook, result):
    lines = [nb.HEADING, *(nb.LINE.format(**row) for row in result["rows"])]
    assert printed(tagged(notebook, "training")) == "\n".join([*lines, ""])


@pytest.mark.parametrize("name, table", [("result", result_table), ("log", log_table)])
def test_result_and_log_at_the_top_are_the_records(
    notebook, readme, result, name, table
):
    for text in (notebook.cells[0].source, readme):
        assert fill(text, name, table(result)) == text


def test_the_readmes_picture_is_the_notebooks(notebook):
    drawn = picture(tagged(notebook, "curves"))
    assert NOTEBOOK.with_name("curves.png").read_bytes() == drawn


def test_the_weights_are_the_records(nb, result, data_dir):
    net = nb.Net(nb.dropout)
    weights = torch.load(NOTEBOOK.with_name("net.pt"), weights_only=True)
    net.load_state_dict(weights)
    assert result["parameters"] == sum(weight.numel() for weight in net.parameters())
    _, (images, labels) = nb.split_data(data_dir, "test")
    predicted = nb.predict_batches(net, images).argmax(dim=1)
    assert result["misread"] == (predicted != labels).nonzero().squeeze(1).tolist()
    loss, accuracy = nb.evaluate(net, images, labels)
    last = result["rows"][-1]
    assert f"{accuracy:.2f}" == f"{last['eval_accuracy']:.2f}"
    assert loss == pytest.approx(last["eval_loss"], abs=1e-4)


def lines_of(cells):
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return sum(bool(line.strip()) for line in code.split("\n"))


def test_the_log_comes_early_and_the_notebook_is_short(notebook, prose):
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    (training,) = (number for number, tag in enumerate(tags) if "training" in tag)
    assert training <= 45, f"the training is cell {training}"
    lines = lines_of(notebook.cells[: training + 1])
    assert lines <= 300, f"{lines} lines of code up to cell {training}"
    # The page of the pad is not the reader's to follow.
    rest = [
        cell
        for cell, tag in zip(notebook.cells, tags, strict=True)
        if "page" not in tag
    ]
    assert lines_of(rest) <= 900
    without_log = re.sub("<!-- log -->.*<!-- /log -->", "", prose, flags=re.DOTALL)
    assert len(without_log.split()) <= 3900


def test_headings_nest_and_nothing_links_to_them(prose):
    assert "](#" not in prose  # such links go nowhere on GitHub and in Colab
    levels = [len(hashes) for hashes in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_lessons_twenty_points_are_considered(notebook):
    text = tagged(notebook, "considerations").source
    points = re.findall(r"^\| (\d+)\. .+ \| .+ \| .+ \|$", text, re.MULTILINE)
    assert [int(point) for point in points] == list(range(1, 25))


def test_the_results_interval_is_wilsons(nb, prose, result):
    right = 10_000 - len(result["misread"])
    interval = binomtest(right, 10_000).proportion_ci(method="wilson")
    low, high = (f"{100 * end:.2f}" for end in (interval.low, interval.high))
    claim = f"the 95 % interval (Wilson) is {low} to {high} %"
    assert f"for {right:,} right of 10,000, {claim}" in " ".join(prose.split())


def test_the_numbers_in_the_text_are_those_of_the_network(nb, prose):
    text = " ".join(prose.split("\n"))
    convolutions = [m for m in nb.Net(0).modules() if isinstance(m, torch.nn.Conv2d)]
    widths = list(dict.fromkeys(conv.out_channels for conv in convolutions[:-1]))
    last = widths[-1]
    rows = {row["name"]: row for row in nb.layer_table(nb.Net(0))}
    size = rows["prediction"]["output"][-1]
    work = {
        key: sum(row[key] for row in rows.values())
        for key in ("parameters", "multiply_adds")
    }
    block3 = {k: sum(r[k] for n, r in rows.items() if "block3" in n) for k in work}
    for claim in (
        f"{nb.learning_rate} in every step",
        f"| {', '.join(map(str, widths))}; `Net`",
        f"turns the last {last} maps into ten",
        f"from {last} maps to 10",
        f"breaks the limit ({work['parameters'] + 10 * last * (size**2 - 1):,} ",
        f"{rows['prediction']['receptive_field']} pixels at the prediction",
        f"layers would see {1 + 2 * (len(convolutions) - 1)} pixels",
        f"| {nb.dropout}, once; `block3`",
        f"| {nb.batch_size}; `batch_size`",
        f"a loss of {math.log(10):.3f}",
        f"Block 3 holds {block3['parameters']:,} of the {work['parameters']:,}",
        f"does {block3['multiply_adds'] / work['multiply_adds']:.0%} of".replace(
            "%", " %"
        ),
    ):
        assert claim in text, claim


def test_ci_runs_the_readmes_test_command(readme):
    train, test = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert NOTEBOOK.parents[1].joinpath(".ci", "run").read_text("utf-8").endswith(test)
    for command, needs in ((train, ""), (test, "S4/tests/")):
        set_up = (
            f".venv/bin/pip install -r {needs}requirements.txt &&\n.venv/bin/python "
        )
        assert command.startswith(f"python3 -m venv .venv &&\n{set_up}")
    assert (train.split()[-1], test.split()[-3:]) == (
        "S4/run.py",
        ["-m", "pytest", "S4"],
    )
    workflow = NOTEBOOK.parents[1] / ".github" / "workflows" / "tests.yml"
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    assert test in [step.get("run") for step in jobs["unix"]["steps"]]


def test_the_readme_tells_the_calibration_error(notebook, readme):
    said = printed(tagged(notebook, "calibration"))
    error = re.search(r"calibration error +([\d.]+)%", said)[1]
    assert f"calibration error {error} %)" in " ".join(readme.split())
