"""The check for a clean notebook finds what a reader would stumble on."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from reading import check_clean, log_lines


def executed(*outputs, count=1):
    return new_notebook(
        cells=[new_code_cell(execution_count=count, outputs=list(outputs))]
    )


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def test_a_clean_notebook_passes():
    check_clean(executed(stream("epoch 1\n")))


@pytest.mark.parametrize(
    "notebook, reason",
    [
        (executed(count=None), "not run in order"),
        (executed(count=2), "not run in order"),
        (executed(stream("UserWarning", name="stderr")), "a warning"),
        (executed(new_output("error", ename="E", evalue="", traceback=[])), "an error"),
        (executed(stream("1\n"), stream("2\n")), "in pieces"),
        (executed(stream("50%|█████     | 5/10\r1\n")), "progress bar"),
        (executed(stream("50%|█████     | 5/10 [00:01<00:01, 5.1it/s]\n")), "progress"),
    ],
)
def test_each_flaw_is_named(notebook, reason):
    with pytest.raises(AssertionError, match=reason):
        check_clean(notebook)


def test_widgets_are_found():
    notebook = executed()
    notebook.metadata.widgets = {}
    with pytest.raises(AssertionError, match="GitHub"):
        check_clean(notebook)


def test_log_lines_are_read_as_the_notebook_prints_them(nb, capsys):
    row = {
        "epoch": 1,
        "learning_rate": 0.004,
        "train_loss": 0.5,
        "train_accuracy": 80.1,
    }
    row |= {"test_loss": 0.1, "test_accuracy": 99.4, "seconds": 12.3}
    nb.print_epoch(row, "test")
    assert log_lines(executed(stream(capsys.readouterr().out))) == [row]
