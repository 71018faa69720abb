"""The notebook as a file: load its definitions, run it, and fill in what it says."""

import base64
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import papermill

NOTEBOOK = Path(__file__).resolve().with_name("S4_Assignment_Solution.ipynb")


def load_definitions(notebook=None, **parameters):
    """Return a module holding what the notebook defines.

    Runs, in order, the code cells tagged `definitions` (imports, functions, classes,
    constants) or `parameters`, and no other: nothing is fetched, trained or drawn.
    `notebook` is an nbformat notebook, ours by default. `parameters` replace values of
    the parameters cell, as papermill does.
    """
    module = ModuleType("notebook_definitions")
    for number, cell in enumerate((notebook or read_notebook()).cells):
        tags = cell.metadata.get("tags", [])
        if "definitions" in tags or "parameters" in tags:
            code = compile(cell.source, f"{NOTEBOOK.name}, cell {number}", "exec")
            exec(code, module.__dict__)
        if "parameters" in tags:
            vars(module).update(parameters)
    return module


def read_notebook(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


def execute(source, target, parameters=None):
    """Run the notebook `source` where its copy `target` is written, and return that.

    Raises papermill.PapermillExecutionError if a cell fails; `target` then holds
    everything up to that cell.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    os.environ.pop("MPLBACKEND", None)  # another backend would draw no pictures
    options = {"cwd": target.parent, "kernel_name": "python3", "progress_bar": False}
    options |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    options["coalesce_streams"] = True  # nothing is saved of the notebook's own bar
    return papermill.execute_notebook(source, target, parameters, **options)


def tagged(notebook, tag):
    """Return the one cell of `notebook` that carries `tag`."""
    (cell,) = (c for c in notebook.cells if tag in c.metadata.get("tags", []))
    return cell


def printed(cell):
    """Return what a cell printed, as one string."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def picture(cell):
    """Return the one picture that a cell drew, as the bytes of a PNG."""
    data = [output.get("data", {}) for output in cell.outputs]
    (png,) = (part["image/png"] for part in data if "image/png" in part)
    return base64.b64decode(png)


def check_clean(notebook):
    """Raise AssertionError if the executed notebook is not as readers should find it.

    That is: run top to bottom in a fresh kernel, without errors or warnings, its log in
    one piece, nothing left of the progress bar, nothing that keeps GitHub from drawing.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(counts) + 1)), f"not run in order: {counts}"
    assert "widgets" not in notebook.metadata, "metadata.widgets: GitHub cannot draw it"
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        streams = [o.name for o in cell.outputs if o.output_type == "stream"]
        assert "error" not in kinds, f"an error: {cell.source}"
        assert "stderr" not in streams, f"a warning: {printed(cell)}"
        assert len(streams) <= 1, f"printed in pieces: {cell.source}"
        left = re.search(r"\r|\x1b|it/s", printed(cell))
        assert not left, f"left of a progress bar: {left}"


def fill(text, name, content):
    """Return `text` with `content` between <!-- name --> and <!-- /name -->.

    Raises ValueError unless each of the two stands there once, in that order.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found_first, rest = text.partition(first)
    _, found_last, after = rest.partition(last)
    if not found_first or not found_last or first in rest or last in before + after:
        raise ValueError(f"{first} and {last} have to stand there once, in that order")
    gap = "\n\n" if "\n" in content else ""  # Markdown wants one around a table
    return f"{before}{first}{gap}{content}{gap}{last}{after}"


def facts_table(facts, heading):
    """Return a dict as a Markdown table of two columns, the second under `heading`."""
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join([f"| | {heading} |", "|---|---|", *rows])
