"""Train: run the notebook from top to bottom and show its log meanwhile.

    python S4/run.py                             train; writes S4/runs/run/run.ipynb
    python S4/run.py -p seed 2 --name seed-2     the same with another parameter
    python S4/run.py --commit                    for maintainers, see below

Ctrl-C ends the training, and the cells below it still run with the finished epochs;
once more ends the run.

A plain run leaves the committed notebook and weights as they are. `--commit` renews all
that is committed of its results: the notebook's outputs, net.pt, result.json,
curves.png, and the tables and the log in the notebook's first cell and the README. It
runs in a folder of its own, and only a clean and complete run changes anything.
"""

import argparse
import ast
import difflib
import json
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

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


def pad_page(weights):
    """Return the page on which one draws a digit, with the weights of that file."""
    nb = nf.load_definitions()
    pad = nb.DrawPad(nb.load_net(weights))._repr_html_()
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">'
    head += '\n<meta name="color-scheme" content="light dark">'
    title = "<title>Draw a digit</title>"
    return f'<!doctype html>\n<html lang="en">\n{head}\n{title}\n{pad}\n</html>\n'


def commit(folder):
    """Run the notebook in `folder` and renew everything committed of its results."""
    shutil.rmtree(folder)  # of an earlier run
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
    contents = {
        NOTEBOOK: f"{nbformat.writes(notebook)}\n".encode(),
        README: readme.encode(),
        HERE / "curves.png": curves,
        HERE / "net.pt": (folder / "net.pt").read_bytes(),
        HERE / "result.json": (folder / "result.json").read_bytes(),
        HERE / "draw.html": pad_page(folder / "net.pt").encode(),
    }
    nf.write_all(contents)


def as_value(text):
    """Return `text` as a number, or None, if it is one, else unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse():
    """Return the options, and the parameters that differ from the notebook's."""
    known = papermill.inspect_notebook(NOTEBOOK)
    listed = [f"  {n:<14}{p['default']:<8}{p['help']}" for n, p in known.items()]
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="\n".join(["parameters and their defaults:", *listed]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="run", help="of the folder in S4/runs")
    parser.add_argument("--commit", action="store_true", help="renew what is committed")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"),
        help="change a parameter, see below; may be repeated",
    )  # fmt: skip
    options = parser.parse_args()
    parameters = {name: as_value(value) for name, value in options.p}
    for name in parameters.keys() - known.keys():
        nearest = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see --help"
        sys.exit(f"There is no parameter {name}: {hint}")
    if options.commit and parameters:
        sys.exit("--commit takes the parameters as the notebook has them")
    if options.name in ("", "..") or Path(options.name).name != options.name:
        sys.exit(f"--name is {options.name!r}: use the name of a folder in S4/runs")
    try:
        notebook = nf.load_definitions(None, "limits", **parameters)
        notebook.check_parameters(vars(notebook))
    except ValueError as error:
        sys.exit(str(error))
    return options, parameters


def run(folder, parameters):
    """Run the notebook with other parameters, in a folder of its own."""
    parameters = {"data_dir": HERE / "data", **parameters}
    parameters["data_dir"] = str(Path(str(parameters["data_dir"])).absolute())
    execute(NOTEBOOK, folder / "run.ipynb", parameters)
    print(f"Written: run.ipynb, net.pt and result.json in {folder}")


def main():
    nf.plain_console()
    options, parameters = parse()
    folder = RUNS / ("committed" if options.commit else options.name)
    target = folder / "run.ipynb"
    busy = f"Another run is writing to {folder}: give this one another --name"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with nf.alone(folder, busy, f"What was done is in {target}"):
            commit(folder) if options.commit else run(folder, parameters)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}\nSo far: {target}")
    except DeadKernelError:
        sys.exit(f"The kernel died: was memory short? So far: {target}")
    except OSError as error:
        sys.exit(f"The run has failed: {error}")


if __name__ == "__main__":
    main()
