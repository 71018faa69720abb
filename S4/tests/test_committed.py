"""What is committed is clean, agrees with itself, and keeps its promise."""

import base64
import math
import re
import sys
from textwrap import dedent

import nbformat
import pytest
import torch

from notebook_loader import NOTEBOOK
from reading import check_clean, code_cells, log, log_lines, picture, summary

README = NOTEBOOK.parents[1] / "README.md"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def readme():
    return README.read_text(encoding="utf-8")


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
    imported = set()
    for cell in code_cells(notebook):
        imported |= set(
            re.findall(r"^(?:import|from) (\w+)", cell.source, re.MULTILINE)
        )
    allowed = {"torch", "torchvision", "torchsummary", "tqdm", "matplotlib", "numpy"}
    assert imported <= allowed | sys.stdlib_module_names


def test_the_log_tells_each_epoch_once(nb, notebook):
    lines = log_lines(notebook)
    assert [line["epoch"] for line in lines] == list(range(1, nb.epochs + 1))
    assert nb.epochs < 20
    assert all(math.isfinite(number) for line in lines for number in line.values())


def test_the_run_is_the_exercises_at_the_first_seed(nb, notebook):
    assert (nb.seed, nb.judge_on, nb.train_limit) == (1, "test", None)
    assert "60,000 images to train on\n10,000 test images to judge on" in log(notebook)


def test_the_last_epochs_meet_the_bar(notebook):
    last_three = [line["test_accuracy"] for line in log_lines(notebook)[-3:]]
    assert min(last_three) >= 99.40
    assert last_three[-1] >= 99.50
    assert "ALL FIVE RULES ARE MET." in log(notebook)


def test_the_summary_agrees_with_the_log_and_the_network(nb, notebook):
    rows, lines = summary(notebook), log_lines(notebook)
    parameters = sum(weight.numel() for weight in nb.Net(nb.dropout).parameters())
    assert rows["Parameters"] == f"{parameters:,}"
    assert rows["Epochs"] == str(len(lines))
    assert rows["Last-epoch test accuracy"] == f"{lines[-1]['test_accuracy']:.2f} %"
    assert f"Device: {rows['Device']};" in log(notebook)
    minutes, seconds = re.findall(r"\d+", rows["Training time"])
    total = sum(line["seconds"] for line in lines)
    assert 60 * int(minutes) + int(seconds) == pytest.approx(total, abs=2)


def result_table(markdown):
    """The rows of the result table in Markdown text, as a dict."""
    table = re.search(r"\| this run \|\n\|---\|---\|\n((?:\|.*\n?)+)", markdown)[1]
    return dict(line.strip("| ").split(" | ") for line in table.splitlines())


def test_the_tables_at_the_top_are_the_summary(notebook, readme):
    assert result_table(notebook.cells[0].source) == summary(notebook)
    assert result_table(readme) == summary(notebook)


def test_the_readmes_picture_is_the_notebooks(notebook):
    png = base64.b64decode(picture(notebook, "curves"))
    assert NOTEBOOK.with_name("curves.png").read_bytes() == png


def test_the_weights_give_the_last_line_of_the_log(nb, notebook, data_dir):
    net = nb.Net(nb.dropout)
    weights = torch.load(NOTEBOOK.with_name("net.pt"), weights_only=True)
    net.load_state_dict(weights)
    _, test_data = nb.split_data(data_dir, "test")
    loader = nb.make_loader(*test_data, batch_size=1000, shuffle=False)
    loss, accuracy = nb.evaluate(net, loader)
    last = log_lines(notebook)[-1]
    assert f"{accuracy:.2f}" == f"{last['test_accuracy']:.2f}"
    assert loss == pytest.approx(last["test_loss"], abs=1e-4)
    misread = re.search(r"(\d+) of 10,000 are misread", log(notebook))[1]
    assert int(misread) == round(100 * (100 - accuracy))


def test_the_lessons_every_point_has_a_row(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    table = re.findall(r"^\| \*\*(\d+)\. (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in table[:20]] == list(range(1, 21))
    for number, row in table:
        choice, measured, why = row.split(" | ")
        assert re.fullmatch(r".+:\*\* .+; .*(\[|`).+", choice), number
        assert measured and len(why.split()) >= 15, number


def test_the_links_lead_to_headings(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {heading.replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_the_numbers_in_the_text_are_those_of_the_network(nb, notebook):
    text = " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    convolutions = [m for m in nb.Net(0).modules() if isinstance(m, torch.nn.Conv2d)]
    widths = list(dict.fromkeys(conv.out_channels for conv in convolutions[:-1]))
    last = widths[-1]
    rows = {row["name"]: row for row in nb.layer_table(nb.Net(0))}
    size = rows["prediction"]["output"][-1]
    for claim in (
        f"up to {nb.max_lr}, down to nearly 0",
        f"** {', '.join(map(str, widths))};",
        f"turns the last {last} maps into ten",
        f"from {last} maps to 10",
        f"for {last * 10 + 10} parameters",
        f"would take {9 * last * 10 + 10:,}",
        f"A {size}×{size} kernel to the ten digits",
        f"with {size**2 * last * 10 + 10:,} parameters",
        f"{rows['prediction']['receptive_field']} pixels at the prediction",
        f"would see only {1 + 2 * (len(convolutions) - 1)} pixels",
        f"** {nb.dropout}, once, before the prediction;",
        f"Batch size:** {nb.batch_size};",
        "1e-4, Nesterov 0.9; `fit`" if nb.weight_decay == 1e-4 else "?",
        f"a loss of {math.log(10):.3f}",
    ):
        assert claim in text, claim


def test_ci_runs_the_readmes_test_command(readme):
    train, test = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert NOTEBOOK.parents[1].joinpath(".ci", "run").read_text().endswith(test)
    set_up = "python3 -m venv .venv &&\n.venv/bin/pip install -r requirements.txt &&\n"
    assert train == set_up + ".venv/bin/python S4/run.py\n"
    assert test == set_up + ".venv/bin/python -m pytest S4\n"
    workflow = NOTEBOOK.parents[1] / ".github" / "workflows" / "tests.yml"
    assert dedent(workflow.read_text().partition("- run: |\n")[2]) == test


def test_the_readme_tells_the_calibration_error(notebook, readme):
    error = re.search(r"calibration error +([\d.]+)%", log(notebook))[1]
    assert f"calibration error {error} %)" in " ".join(readme.split())
