"""`run.py` works wherever it is started, and its surroundings decide nothing."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from filelock import FileLock
from PIL import Image

import run
from S4 import notebook_file
from S4.notebook_file import NOTEBOOK, check_clean, picture, printed, tagged

QUICK = ["-p", "epochs", "1", "-p", "train_limit", "600"]


@pytest.fixture
def started(tmp_path, data_dir):
    """A function that starts a copy of run.py, MNIST being somewhere else.

    The path has a space and an umlaut, and `data` and `runs` are links.
    """
    umlaut = "Ü" if sys.getfilesystemencoding() == "utf-8" else "Ue"
    home = tmp_path / f"Meine {umlaut}bung" / "S4"
    home.mkdir(parents=True)
    for name in ("run.py", "notebook_file.py", NOTEBOOK.name):
        shutil.copy(NOTEBOOK.with_name(name), home)
    (tmp_path / "runs").mkdir()
    try:
        (home / "data").symlink_to(data_dir, target_is_directory=True)
        (home / "runs").symlink_to(tmp_path / "runs", target_is_directory=True)
    except OSError:  # Windows asks for a privilege
        shutil.copytree(data_dir, home / "data")

    def start(*options, **environment):
        pipes = dict.fromkeys(["stdout", "stderr"], subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, home / "run.py", *options],
            env=os.environ | {"PYTHONWARNINGS": ""} | environment,
            encoding="utf-8",
            start_new_session=True,
            **pipes,
        )

    start.target = home / "runs" / "run" / "run.ipynb"
    return start


def wait_until(start, running):
    """Read what a process prints until a line begins with `start`."""
    for line in iter(running.stdout.readline, ""):
        if line.startswith(start):
            return
    pytest.fail(f"it ended without that: {running.stderr.read()}")


def test_surroundings_do_not_decide(started, tmp_path):
    """Console, plotting backend, matplotlib's settings, other kernels, IPython's."""
    kernel, startup = tmp_path / "kernels" / "python3", tmp_path / "ip/profile_default"
    kernel.mkdir(parents=True)
    other = '{"argv": ["no such program"], "language": "python", "display_name": "x"}'
    (kernel / "kernel.json").write_text(other, "utf-8")
    (startup / "startup").mkdir(parents=True)
    (startup / "startup" / "a.py").write_text(
        "import torch; torch.rand = None", "utf-8"
    )
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 20\n", "utf-8")
    (tmp_path / "start.py").write_text("import torch; torch.rand = None", "utf-8")
    surroundings = {"PYTHONSTARTUP": str(tmp_path / "start.py")}
    surroundings |= {"JUPYTER_PATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ip")}
    surroundings |= {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "nonsense"}
    surroundings |= {"PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "default"}
    done = started(*QUICK, **surroundings)
    output, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    assert "Kernel is" not in errors and "Debugger" not in errors
    assert "? fewer than 20 epochs" in output and "\r" not in output  # no bar
    assert output.isascii() and "Written: run.ipynb" in output.splitlines()[-1]
    executed = notebook_file.read_notebook(started.target)
    check_clean(executed)
    drawn = [o for c in executed.cells for o in c.get("outputs", []) if "data" in o]
    assert sum("image/png" in output.data for output in drawn) >= 10
    assert Image.open(io.BytesIO(picture(tagged(executed, "curves")))).width > 800
    assert not started.target.with_name("data").exists()  # nothing fetched again


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent there")
def test_an_interrupt_keeps_the_finished_epochs(started):
    running = started("-p", "train_limit", "2000")
    wait_until("    1 ", running)
    os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C in a terminal
    output, errors = running.communicate(timeout=300)
    assert (running.returncode, errors) == (130, "")
    assert output.splitlines()[-1].startswith("Interrupted. What was done is in ")
    executed = notebook_file.read_notebook(started.target)
    check_clean(executed)
    assert "of 19 epochs are finished" in printed(tagged(executed, "training"))
    assert "INCOMPLETE" in output and "net.pt" in output
    files = {path.name for path in started.target.parent.iterdir()}
    assert files == {"run.ipynb"}


SLEEPS = "import time\nprint('asleep')\ntime.sleep(60)"
DIES = "import os, time\nprint('dies')\ntime.sleep(3)\nos._exit(1)"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent there")
@pytest.mark.parametrize(
    "cell, wait_for, code, last",
    [
        (SLEEPS, "asleep", 130, "Interrupted. What was done is in"),
        (DIES, "dies", 1, "The kernel died: was memory short?"),
    ],
)
def test_a_run_that_is_ended_says_so_in_one_line(started, cell, wait_for, code, last):
    """An interrupt outside the training, and a kernel that the system kills."""
    home = started.target.parents[2]
    notebook = notebook_file.read_notebook()
    kept = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    kept += [c for c in notebook.cells if "limits" in c.metadata.get("tags", [])]
    notebook.cells = [*kept, nbformat.v4.new_code_cell(cell)]
    nbformat.write(notebook, home / NOTEBOOK.name)
    running = started()
    wait_until(wait_for, running)
    if code == 130:
        os.killpg(running.pid, signal.SIGINT)
    output, errors = running.communicate(timeout=100)
    assert running.returncode == code
    assert (output + errors).splitlines()[-1].startswith(last)
    assert "Traceback" not in errors
    stopped = notebook_file.read_notebook(started.target)
    assert any(wait_for in printed(c) for c in stopped.cells if "outputs" in c)


def call(monkeypatch, *options):
    """Call run.py's main function and return what it says in the end."""
    monkeypatch.setattr(sys, "argv", ["run.py", *options])
    with pytest.raises(SystemExit) as end:
        run.main()
    return end.value.code


@pytest.mark.parametrize(
    "name, value, answer",
    [
        ("sed", "2", "There is no parameter sed: did you mean seed?"),
        ("workers", "2", "There is no parameter workers: see --help"),
        ("epochs", "abc", "epochs is 'abc': use a whole number, 1 to 19"),
        ("epochs", "20", "epochs is 20: use a whole number, 1 to 19"),
        ("learning_rate", "nan", "learning_rate is 'nan': use a number, 0.0 to 1000.0"),
        ("batch_size", "0", "batch_size is 0: use a whole number, 1 to 60000"),
        ("dropout", "1.5", "dropout is 1.5: use a number, 0.0 to 0.99"),
        ("seed", "True", f"seed is True: use a whole number, 0 to {2**63 - 1}"),
        ("train_limit", "-1", "train_limit is -1: use a whole number, 1 to 60000"),
        ("judge_on", "tset", """judge_on is 'tset': use "test" or "validation\""""),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(monkeypatch, name, value, answer):
    assert call(monkeypatch, "-p", name, value) == answer


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/b"])
def test_a_run_stays_in_its_folder(monkeypatch, name):
    assert "use the name of a folder in S4/runs" in call(monkeypatch, "--name", name)


def test_parameters_are_checked_without_torch():
    code = "import sys, run; sys.argv = ['', '-p', 'seed', 'x']\ntry: run.parse()\n"
    code += "except SystemExit as end: print(end, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=NOTEBOOK.parent, capture_output=True
    )
    assert done.stdout.endswith(b" False" + os.linesep.encode()), done.stderr


def test_the_notebooks_own_parameters_are_in_order(nb):
    nb.check_parameters(vars(nb))
    with pytest.raises(ValueError, match="learning_rate is nan"):
        nb.check_parameters(vars(nb) | {"learning_rate": float("nan")})


def test_help_tells_each_parameter_with_default_and_meaning(monkeypatch, capsys, nb):
    assert call(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    for name in (*nb.LIMITS, "judge_on", "data_dir"):
        assert f"\n  {name:<14}" in told
    assert "learning_rate 0.05    the same in every step" in told


def test_a_second_run_in_the_same_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "RUNS", tmp_path)
    with FileLock(tmp_path / "run.lock"):
        assert "give this one another --name" in call(monkeypatch)
    assert list(tmp_path.glob("*/*")) == []


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    def refuse(path, mode=0o777):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(os, "mkdir", refuse)
    assert "The run has failed: [Errno 13]" in call(monkeypatch)


def full_disk(self, *content):
    with open(self, "wb") as file:
        file.write(b"half")
    raise OSError(28, "No space left on device", str(self))


def test_a_full_disk_leaves_all_files_as_they_were(monkeypatch, tmp_path):
    contents = {tmp_path / name: name.encode() for name in ("a", "b")}
    notebook_file.write_all(contents)
    real = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda p, c: (full_disk if "b" in p.name else real)(p, c)
    )
    with pytest.raises(OSError, match="No space left"):
        notebook_file.write_all(dict.fromkeys(contents, b"new"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_a_notebook_that_is_half_saved_does_not_pass_for_a_whole_one(
    monkeypatch, tmp_path
):
    target = tmp_path / "run.ipynb"
    target.write_bytes(b"of an earlier run")
    monkeypatch.setattr(
        papermill.iorw.LocalHandler, "write", lambda self, text, path: full_disk(path)
    )
    with pytest.raises(OSError, match="No space left"):
        notebook_file.execute(NOTEBOOK, target)
    assert target.read_bytes() == b"of an earlier run"
