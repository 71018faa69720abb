"""Read an executed notebook: its outputs, its log, and what must never be in it."""

import re

LOG_LINE = re.compile(
    r"^ *(?P<epoch>\d+) +(?P<learning_rate>[\d.]+) +(?P<train_loss>[\d.]+)"
    r" +(?P<train_accuracy>[\d.]+) % +(?P<test_loss>[\d.]+)"
    r" +(?P<test_accuracy>[\d.]+) % +(?P<seconds>[\d.]+)$",
    re.MULTILINE,
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    """Everything that the notebook printed, as one string."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def log_lines(notebook):
    """The training log: one dict of numbers for each line."""
    return [
        {name: float(number) for name, number in match.groupdict().items()}
        for match in LOG_LINE.finditer(printed(notebook))
    ]


def summary(notebook):
    """The run's summary as a dict, from the cell tagged `summary`."""
    (cell,) = (c for c in notebook.cells if "summary" in c.metadata.get("tags", []))
    return dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in printed_by(cell).splitlines()
    )


def printed_by(cell):
    return "".join(output.text for output in cell.outputs)


def result_table(markdown):
    """The rows of the result table in Markdown text, as a dict."""
    table = re.search(r"\| this run \|\n\|---\|---\|\n((?:\|.*\n?)+)", markdown)[1]
    rows = (line.strip("| ").split(" | ") for line in table.splitlines())
    return dict(rows)


def check_clean(notebook):
    """Fail if the executed notebook is not as a reader should find it."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "not run top to bottom"
    assert "widgets" not in notebook.metadata, "GitHub would not draw it"
    for cell in code_cells(notebook):
        streams = [o.name for o in cell.outputs if o.output_type == "stream"]
        assert "stderr" not in streams, f"a warning: {printed_by(cell)}"
        assert len(streams) <= 1, "the log is in pieces"
        assert all(output.output_type != "error" for output in cell.outputs)
    log = printed(notebook)
    assert "\r" not in log and "it/s" not in log and "\x1b" not in log, "a bar is left"
