"""Load the notebook's own definitions, so that no test or study copies them."""

from pathlib import Path
from types import ModuleType

import nbformat

NOTEBOOK = Path(__file__).with_name("S4_Assignment_Solution.ipynb")


def load_definitions(path=NOTEBOOK):
    """Return a module holding what the notebook at `path` defines.

    Runs, in order, the code cells tagged `definitions` (imports, functions, classes,
    constants) or `parameters`, and no other: nothing is fetched, trained or drawn.
    """
    module = ModuleType("notebook_definitions")
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells):
        if {"definitions", "parameters"} & set(cell.metadata.get("tags", [])):
            code = compile(cell.source, f"{Path(path).name}, cell {number}", "exec")
            exec(code, module.__dict__)
    return module
