"""Train: run the notebook from top to bottom and show its log meanwhile.

    python S4/run.py                             train; writes S4/runs/run/run.ipynb
    python S4/run.py -p seed 2 --name seed-2     the same with another parameter
    python S4/run.py --commit                    for maintainers, see below

A plain run leaves the committed notebook and weights as they are. `--commit` runs the
notebook in place and renews all that is committed of its results: the outputs, net.pt,
curves.png, and the tables at the top of the notebook and of the README.
"""

import argparse
import base64
import json
import os
import sys

import nbformat
import papermill

from notebook_loader import NOTEBOOK
from reading import check_clean, picture, summary, with_table

HERE = NOTEBOOK.parent
README = HERE.parent / "README.md"
RUNS = HERE / "runs"


def execute(source, target, folder, parameters=None):
    """Run the notebook `source` in `folder`; write the executed copy, and return it.

    Raises papermill.PapermillExecutionError if a cell fails; `target` then holds
    everything up to that cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    return papermill.execute_notebook(
        source,
        target,
        parameters,
        cwd=folder,
        kernel_name="python3",
        progress_bar=False,  # the notebook has its own
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
        coalesce_streams=True,  # of the progress bar, nothing is saved
    )


def commit():
    """Run the notebook in place and renew everything committed of its results."""
    executed = execute(NOTEBOOK, RUNS / "committed.ipynb", HERE)
    check_clean(executed)
    result = summary(executed)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell, done in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    notebook.cells[0].source = with_table(notebook.cells[0].source, "this run", result)
    nbformat.write(notebook, NOTEBOOK)
    readme = with_table(README.read_text("utf-8"), "this run", result)
    README.write_text(readme, "utf-8")
    (HERE / "curves.png").write_bytes(base64.b64decode(picture(executed, "curves")))


def as_value(text):
    """Return `text` as a number, true, false or null if it is one, else unchanged."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="run", help="of the folder in S4/runs")
    parser.add_argument("--commit", action="store_true", help="renew what is committed")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"),
        help="change a number of the notebook's parameters cell; may be repeated",
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
    execute(NOTEBOOK, folder / "run.ipynb", folder, parameters)
    print(f"Written: {os.path.relpath(folder)}/run.ipynb and net.pt")


if __name__ == "__main__":
    main()
