"""Load the notebook's own definitions, so that no test or study copies them."""

from pathlib import Path
from types import ModuleType

import nbformat

NOTEBOOK = Path(__file__).with_name("S4_Assignment_Solution.ipynb")


def load_definitions(path=NOTEBOOK, **parameters):
    """Return a module holding what the notebook at `path` defines.

    Runs, in order, the code cells tagged `definitions` (imports, functions, classes,
    constants) or `parameters`, and no other: nothing is fetched, trained or drawn.
    `parameters` replace values of the parameters cell, as papermill does.
    """
    module = ModuleType("notebook_definitions")
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if "definitions" in tags or "parameters" in tags:
            code = compile(cell.source, f"{Path(path).name}, cell {number}", "exec")
            exec(code, module.__dict__)
        if "parameters" in tags:
            vars(module).update(parameters)
    return module
