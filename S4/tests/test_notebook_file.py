"""The notebook is loaded without being run, checked for flaws, and filled strictly."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from S4.notebook_file import check_clean, fill, load_definitions


def test_nothing_is_trained_or_fetched(nb, capsys):
    load_definitions()
    assert callable(nb.train) and not hasattr(nb, "rows")
    assert not hasattr(nb, "train_data") and capsys.readouterr().out == ""


def test_other_parameters_reach_what_is_made_of_them(nb):
    changed = load_definitions(max_shear=1.5, learning_rate=0.03)
    settings = nb.settings_of(changed.recipe)
    assert settings == nb.settings_of(nb.recipe) | {
        "max_shear": 1.5,
        "learning_rate": 0.03,
    }


def executed(*outputs, count=1):
    return new_notebook(
        cells=[new_code_cell(execution_count=count, outputs=list(outputs))]
    )


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


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
        (new_notebook(metadata={"widgets": {}}), "GitHub"),
    ],
)
def test_each_flaw_is_named(notebook, reason):
    check_clean(executed(stream("epoch 1\n")))
    with pytest.raises(AssertionError, match=reason):
        check_clean(notebook)


def test_what_stands_between_the_markers_is_replaced():
    text = "a <!-- x -->old<!-- /x --> b <!-- y --><!-- /y -->"
    assert fill(text, "x", "new") == text.replace("old", "new")
    assert fill(text, "x", "a\nb") == text.replace("old", "\n\na\nb\n\n")


@pytest.mark.parametrize("marks", ["", "x", "/x", "/x x", "x x /x", "x /x /x"])
def test_a_marker_that_is_missing_or_there_twice_is_an_error(marks):
    text = "".join(f"<!-- {mark} -->" for mark in marks.split())
    with pytest.raises(ValueError, match="have to stand there once"):
        fill(text, "x", "new")
