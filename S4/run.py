"""Train: run the notebook from top to bottom and show its log meanwhile.

    python S4/run.py                             train; writes S4/runs/run/run.ipynb
    python S4/run.py -p seed 2 --name seed-2     the same with another parameter
    python S4/run.py --commit                    for maintainers, see below

A plain run leaves the committed notebook and weights as they are. `--commit` renews all
that is committed of its results: the notebook's outputs, net.pt, result.json,
curves.png, and the tables and the log in the notebook's first cell and the README. It
runs in a folder of its own, and only a clean and complete run changes anything.
"""

import argparse
import ast
import json
import os
import shutil
import sys

import nbformat
import papermill

import notebook_file as nf
from notebook_file import NOTEBOOK, execute, fill

HERE = NOTEBOOK.parent
README = HERE.parent / "README.md"
RUNS = HERE / "runs"


def result_table(result):
    """Return the table that notebook and README begin with, from a result.json."""
    row, seconds = result["rows"][-1], round(result["seconds"])
    facts = {
        "Parameters": f"{result['parameters']:,}",
        "Epochs": len(result["rows"]),
        "Last-epoch test accuracy": f"{row['eval_accuracy']:.2f} %",
        "Device": result["device"],
        "Training time": f"{seconds // 60} min {seconds % 60} s",
        "Verdict": result["verdict"],
    }
    return nf.facts_table(facts, "this run")


def log_table(result):
    """Return the log, a line for each epoch, from a result.json."""
    head = "| epoch | train loss | train acc., % | test loss | test acc., % |"
    line = "| {epoch} | {train_loss:.4f} | {train_accuracy:.2f} "
    line += "| {eval_loss:.4f} | {eval_accuracy:.2f} |"
    rows = [line.format(**row) for row in result["rows"]]
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def commit():
    """Run the notebook and renew everything committed of its results."""
    folder = RUNS / "committed"
    shutil.rmtree(folder, ignore_errors=True)
    if (HERE / "data").exists():
        shutil.copytree(HERE / "data", folder / "data")
    executed = execute(NOTEBOOK, folder / "run.ipynb")
    nf.check_clean(executed)
    result = json.loads((folder / "result.json").read_text("utf-8"))
    curves = nf.picture(nf.tagged(executed, "curves"))
    notebook, readme = nf.read_notebook(), README.read_text("utf-8")
    for cell, done in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    for name, table in (("result", result_table(result)), ("log", log_table(result))):
        notebook.cells[0].source = fill(notebook.cells[0].source, name, table)
        readme = fill(readme, name, table)
    nbformat.write(notebook, NOTEBOOK)
    README.write_text(readme, "utf-8", newline="\n")
    (HERE / "curves.png").write_bytes(curves)
    for name in ("net.pt", "result.json"):
        shutil.copy(folder / name, HERE / name)


def as_value(text):
    """Return `text` as a number, or None, if it is one, else unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console without ✓ ends no run
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="run", help="of the folder in S4/runs")
    parser.add_argument("--commit", action="store_true", help="renew what is committed")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"),
        help="change a value of the notebook's parameters cell; may be repeated",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.commit:
        if arguments.p:
            parser.error("--commit takes the parameters as the notebook has them")
        commit()
        return
    folder = RUNS / arguments.name  # a folder of its own, for its net.pt
    parameters = {"data_dir": os.path.relpath(HERE / "data", folder)}
    parameters.update({name: as_value(value) for name, value in arguments.p})
    if unknown := parameters.keys() - papermill.inspect_notebook(NOTEBOOK).keys():
        parser.error(f"the parameters cell has no {', '.join(unknown)}")
    execute(NOTEBOOK, folder / "run.ipynb", parameters)
    print(f"Written: {os.path.relpath(folder)}/run.ipynb, net.pt and result.json")


if __name__ == "__main__":
    main()
