"""Read an executed notebook: its log, its summary, and what must not be in it."""

import re

LOG_LINE = re.compile(
    r"^ *(?P<epoch>\d+) +(?P<learning_rate>[\d.]+) +(?P<train_loss>[\d.]+)"
    r" +(?P<train_accuracy>[\d.]+) % +(?P<test_loss>[\d.]+)"
    r" +(?P<test_accuracy>[\d.]+) % +(?P<seconds>[\d.]+)$",
    re.MULTILINE,
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    """Return the one cell of `notebook` that carries `tag`."""
    (cell,) = (c for c in notebook.cells if tag in c.metadata.get("tags", []))
    return cell


def printed(cell):
    """Return what the cell printed, as one string."""
    streams = [output for output in cell.outputs if output.output_type == "stream"]
    return "".join(output.text for output in streams)


def log(notebook):
    """Return what all cells printed, as one string."""
    return "".join(printed(cell) for cell in code_cells(notebook))


def log_lines(notebook):
    """Return the training log: one dict of numbers for each line."""
    matches = LOG_LINE.finditer(log(notebook))
    return [{k: float(v) for k, v in match.groupdict().items()} for match in matches]


def summary(notebook):
    """Return what the cell tagged `summary` printed, as a dict of strings."""
    lines = printed(tagged(notebook, "summary")).splitlines()
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


def picture(notebook, tag):
    """Return, in base64, the PNG drawn by the cell that carries `tag`."""
    return tagged(notebook, tag).outputs[0].data["image/png"]


def check_clean(notebook):
    """Raise AssertionError if the executed notebook is not as readers should find it.

    That is: run top to bottom in a fresh kernel, without errors or warnings, its log in
    one piece, nothing left of the progress bar, nothing that keeps GitHub from drawing.
    """
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(counts) + 1)), f"not run in order: {counts}"
    assert "widgets" not in notebook.metadata, "metadata.widgets: GitHub cannot draw it"
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        streams = [o.name for o in cell.outputs if o.output_type == "stream"]
        assert "error" not in kinds, f"an error: {cell.source}"
        assert "stderr" not in streams, f"a warning: {printed(cell)}"
        assert len(streams) <= 1, f"printed in pieces: {cell.source}"
    left = re.search(r"\r|\x1b|it/s", log(notebook))
    assert not left, f"left of a progress bar: {left}"


def with_table(markdown, heading, result):
    """Return `markdown`, the rows of its table under `heading` taken from a dict."""
    rows = "".join(f"| {name} | {value} |\n" for name, value in result.items())
    head = re.escape(f"| | {heading} |\n|---|---|\n")
    return re.sub(rf"({head})(?:\|.*(?:\n|$))*", rf"\g<1>{rows}", markdown)
