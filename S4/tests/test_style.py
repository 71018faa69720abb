"""ruff checks and formats the notebook and the Python files."""

import subprocess
import sys

import pytest

from S4.notebook_file import NOTEBOOK


@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]])
def test_ruff_has_nothing_to_say(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", NOTEBOOK.parent]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
