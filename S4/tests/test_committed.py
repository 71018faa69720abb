"""What is committed is clean, agrees with itself, and keeps its promise."""

import base64
import math
import re
import sys
from textwrap import dedent

import nbformat
import pytest
import torch

from run import result_table
from S4.notebook_file import NOTEBOOK, check_clean, fill, printed, tagged


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
    assert imported <= allowed | sys.stdlib_module_names


def test_the_run_is_the_exercises_at_the_first_seed(nb, result):
    assert result["settings"] == nb.settings_of(nb.recipe)
    assert (result["seed"], result["judge_on"], result["train_limit"]) == (
        nb.seed,
        "test",
        None,
    )
    assert [nb.seed, nb.judge_on, nb.train_limit] == [1, "test", None]


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
    assert result["verdict"] == "ALL FIVE RULES ARE MET."


def test_the_log_is_that_of_the_record(nb, notebook, result, capsys):
    for row in result["rows"]:
        nb.print_row(row, result["judge_on"])
    assert printed(tagged(notebook, "training")) == capsys.readouterr().out


def test_the_tables_at_the_top_are_the_records(notebook, readme, result):
    table = result_table(result)
    for text in (notebook.cells[0].source, readme):
        assert fill(text, "result", table) == text


def test_the_readmes_picture_is_the_notebooks(notebook):
    png = tagged(notebook, "curves").outputs[0].data["image/png"]
    assert NOTEBOOK.with_name("curves.png").read_bytes() == base64.b64decode(png)


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


def test_the_lessons_every_point_has_a_row(prose):
    table = re.findall(r"^\| \*\*(\d+)\. (.+) \|$", prose, re.MULTILINE)
    assert [int(number) for number, _ in table[:20]] == list(range(1, 21))
    for number, row in table:
        _, measured, why = row.split(" | ")
        assert measured and len(why.split()) >= 15, number


def test_the_links_lead_to_headings(prose):
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    anchors = {heading.replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", prose)) <= anchors


def test_the_numbers_in_the_text_are_those_of_the_network(nb, prose):
    text = " ".join(prose.split("\n"))
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
    said = printed(tagged(notebook, "calibration"))
    error = re.search(r"calibration error +([\d.]+)%", said)[1]
    assert f"calibration error {error} %)" in " ".join(readme.split())
