"""The notebook as a file: load its definitions, run it, and fill in what it says."""

import base64
import os
import re
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import run_sync
from traitlets import default

NOTEBOOK = Path(__file__).resolve().with_name("S4_Assignment_Solution.ipynb")


def plain_console():
    """Let a console that lacks a character show a plain substitute, and go on."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")


@contextmanager
def alone(path, busy, kept):
    """Let no other program work on `path` meanwhile; `busy` is said if one does.

    After Ctrl-C, `kept` is said. The program ends then, in one line either way.
    """
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield
    except Timeout:
        sys.exit(busy)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {kept}")
        sys.exit(130)


def load_definitions(notebook=None, only="definitions", **parameters):
    """Return a module holding what the notebook defines.

    Runs, in order, the code cells tagged `definitions` (imports, functions, classes,
    constants) or `parameters`, and no other: nothing is fetched or drawn, and nothing
    trained but a small step that tries the device. `notebook` is an nbformat notebook,
    ours by default; `only` is another tag in the place of `definitions`. `parameters`
    replace values of the parameters cell, as papermill does.
    """
    module = ModuleType("notebook_definitions")
    for number, cell in enumerate((notebook or read_notebook()).cells):
        tags = cell.metadata.get("tags", [])
        if only in tags or "parameters" in tags:
            code = compile(cell.source, f"{NOTEBOOK.name}, cell {number}", "exec")
            exec(code, module.__dict__)
        if "parameters" in tags:
            vars(module).update(parameters)
    return module


def read_notebook(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


class OwnKernel(AsyncKernelManager):
    """A kernel in this very Python, whatever other kernels are installed."""

    running = None

    @default("kernel_spec_manager")
    def _no_other_kernel(self):
        return KernelSpecManager(kernel_dirs=[])  # leaves ipykernel's own only

    async def start_kernel(self, **options):
        OwnKernel.running = self
        if self.has_trait("transport_encryption"):
            self.transport_encryption = "auto"  # else ipykernel warns of plain text
        # Interrupted between two cells, it would say so in its own words.
        quiet = [*options.pop("extra_arguments", []), "--log-level=50"]
        await super().start_kernel(extra_arguments=quiet, **options)


def own_environment(folder):
    """Return what a kernel's environment differs by; None is left out.

    What a user has set up for Python, IPython or matplotlib is not for this run.
    """
    changes = dict.fromkeys(["MPLBACKEND", "PYTHONSTARTUP", "PYTHONWARNINGS"])
    changes["IPYTHONDIR"] = folder
    # No debugger is used; older ipykernels warn that it may miss something.
    changes["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if not sys.stdout.isatty():
        changes["TQDM_DISABLE"] = "1"  # a file gets a line an epoch, no bar
    return changes


def execute(source, target, parameters=None):
    """Run the notebook `source` where its copy `target` is written, and return that.

    Ctrl-C interrupts the running cell, as in Jupyter. Raises KeyboardInterrupt
    afterwards, and papermill.PapermillExecutionError if a cell fails; `target` then
    holds everything up to that cell. Raises OSError if it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.ipynb")
    before, interrupts = signal.getsignal(signal.SIGINT), []

    def pass_on(*_):
        interrupts.append(1)
        run_sync(OwnKernel.running.interrupt_kernel)()

    def cell_starts(**_):
        signal.signal(signal.SIGINT, pass_on)

    def cell_ends(**_):
        signal.signal(signal.SIGINT, signal.default_int_handler)

    options = {"cwd": target.parent, "kernel_name": "python3", "progress_bar": False}
    options |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    options["coalesce_streams"] = True  # nothing is saved of the notebook's own bar
    options["kernel_manager_class"] = OwnKernel
    options |= {"on_cell_execute": cell_starts, "on_cell_executed": cell_ends}
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ):
        for name, value in own_environment(empty).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        try:
            executed = papermill.execute_notebook(source, part, parameters, **options)
            if interrupts:
                raise KeyboardInterrupt
        except BaseException as error:
            if part.exists() and not isinstance(error, OSError):
                part.replace(target)
            if interrupts:
                raise KeyboardInterrupt from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)
    part.replace(target)
    return executed


def write_all(contents):
    """Write {path: bytes}; a full disk, or an error before, leaves all as they were."""
    parts = {path: path.with_name(f"{path.name}.part") for path in contents}
    try:
        for path, part in parts.items():
            part.write_bytes(contents[path])
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise
    for path, part in parts.items():
        part.replace(path)


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
