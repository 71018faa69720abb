"""ruff checks and formats the notebook and the Python files."""

import subprocess
import sys

import nbformat
import pytest

from S4.notebook_file import NOTEBOOK


@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]])
def test_ruff_has_nothing_to_say(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", NOTEBOOK.parent]
    done = subprocess.run(ruff, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_part_one_uses_no_name_of_part_two(notebook, tmp_path):
    cells = [cell.source for cell in notebook.cells]
    (second,) = (i for i, source in enumerate(cells) if "## Part two" in source)
    part_one = notebook.copy() | {"cells": notebook.cells[:second]}
    nbformat.write(nbformat.from_dict(part_one), tmp_path / "one.ipynb")
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "F821", "--no-cache"]
    done = subprocess.run([*ruff, tmp_path], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
