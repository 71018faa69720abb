"""Runs: what identifies one, the file that keeps them, and how they are trained."""

import json
import logging
import os
import platform
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

import cpuinfo
import dask
import torch
import torchvision
from dask.distributed import KilledWorker, LocalCluster, as_completed
from distributed.system import MEMORY_LIMIT
from tqdm import tqdm

from ..notebook_file import NOTEBOOK, read_notebook
from .variants import (
    VARIANTS,
    Views,
    augment_less_at_the_end,
    hard_pictures,
    identity,
)

NEEDED = 1.5 * 2**30  # bytes that one training takes, its data included
KEPT = "train_loss", "train_accuracy", "eval_loss", "eval_accuracy"  # of each epoch
SAME = "identity", "seed", "epochs", "split", "train_limit"  # two runs if one differs


def read_runs(path):
    """Return the runs in the file `path`, a dict each; a run that is there twice, once.

    A last line that is torn, because its writer was killed, is left out. Raises
    ValueError, with file and line, if any other line is not a run.
    """
    runs, lines = {}, path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        is_last = number == len(lines)
        if is_last and not line:
            break
        try:
            run = json.loads(line)
            runs.setdefault(tuple(run[key] for key in SAME), run)
        except (ValueError, KeyError, TypeError) as error:
            if is_last and isinstance(error, ValueError):
                print(f"{path.name}: the last line is torn and left out: {line[:40]} …")
                break
            raise ValueError(f"{path}, line {number} is no run: {error!r}") from error
    return list(runs.values())


def append_run(run, path):
    """Append one run to the file `path`, and see it safely to the disk.

    A torn last line is moved to the file NAME.torn beside it.
    """
    with path.open("a+b") as file:
        file.seek(0)
        before, newline, last = file.read().rpartition(b"\n")
        end = b"\n" if last else b""  # of a whole line that lacks it
        try:
            json.loads(last or b"{}")
        except ValueError:
            with path.with_name(f"{path.name}.torn").open("ab") as torn:
                torn.write(last + b"\n")
            file.truncate(len(before + newline))
            end = b""
        line = json.dumps(run, separators=(",", ":"))
        file.write(end + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def train_run(variant, notebook, run, data_dir):
    """Train one variant of `notebook` and return `run` with its result, fit for JSON.

    `run` has seed, epochs, split and train_limit. The result's `history` has a list for
    each of `KEPT`, with a number for each epoch; `misread` numbers the judged images
    that it gets wrong in the end; `five_views` is what its loss and accuracy would be
    in the end, judged by five views of each. A loss that is not finite is a result,
    too: `failed` then says what happened.
    """
    torch.set_num_threads(1)  # as many runs as cores share them best
    history, seconds, failed = {key: [] for key in KEPT}, 0.0, None
    misread = viewed = None
    nb, recipe = variant.load(notebook, epochs=run["epochs"])
    if run.get("identity", identity(recipe)) != identity(recipe):
        raise RuntimeError("This worker has older code: start it again.")
    data = nb.split_data(data_dir, run["split"], run["train_limit"])
    net, precision = recipe["make_net"](), "float32"
    if nb.device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        precision += ", convolutions in TF32"  # PyTorch's default, where there is TF32
    options = {}
    if "late_augmentation" in recipe:
        recipe = augment_less_at_the_end(recipe)
    if "keep" in recipe:
        recipe, options["bar"] = hard_pictures(recipe, data[0][1], run["seed"])
    try:
        for row, judged in nb.train(*data, run["seed"], recipe, **options):
            net = judged
            seconds += row["seconds"]
            for key, values in history.items():
                values.append(float(f"{row[key]:.6g}"))
        predicted = nb.predict_batches(net, data[1][0]).argmax(dim=1)
        misread = (predicted != data[1][1]).nonzero().squeeze(1).tolist()
        viewed = nb.evaluate(Views(net), *data[1])
    except FloatingPointError as error:
        failed = str(error)
    return {
        **run,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "failed": failed,
        "history": history,
        "misread": misread,
        "five_views": viewed and [float(f"{number:.6g}") for number in viewed],
        "seconds": round(seconds, 1),
        "device": nb.device_name,
        "processor": cpuinfo.get_cpu_info().get("brand_raw", "unknown"),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def local_cluster(workers):
    """Return a Dask cluster of `workers` processes on this machine."""
    if workers * NEEDED > MEMORY_LIMIT:
        room = f"{workers} × {NEEDED / 2**30} GiB of memory, {MEMORY_LIMIT / 2**30:.1f}"
        sys.exit(f"{workers} workers need {room} are there: use fewer --workers")
    # One of Dask's presets makes every worker give memory back at once; training then
    # spends much of its time on getting it again.
    dask.config.set({"distributed.nanny.pre-spawn-environ": {}})
    # Ctrl-C is for this process; the workers inherit that they ignore it.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = {"threads_per_worker": 1, "memory_limit": MEMORY_LIMIT // workers}
    # Errors of runs are told by their futures; a worker that ends may lament a closed
    # connection. Another program may hold Dask's usual port for its page: any will do.
    options |= {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    cluster = LocalCluster(n_workers=workers, **options)
    signal.signal(signal.SIGINT, interrupt)
    return cluster


def send_code(client):
    """Give all workers, on any machine, this package as a zip file."""
    root = NOTEBOOK.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for file in (*root.glob("S4/*.py"), *root.glob("S4/study/*.py")):
                archive.write(file, file.relative_to(root))
        client.upload_file(str(path))


def train_all(client, runs, data_dir, path):
    """Train `runs` on a Dask cluster; append each to the file `path` when it is done.

    Returns the number of runs that raised an error. They are printed, not recorded, so
    that they are tried again next time.
    """
    send_code(client)
    notebook = read_notebook()
    for cell in notebook.cells:
        cell.pop("outputs", None)
    futures, errors = {}, 0
    for run in runs:
        task = train_run, VARIANTS[run["variant"]], notebook, run, data_dir
        futures[client.submit(*task, retries=2, pure=False)] = run
    for future in tqdm(as_completed(futures), "Runs", len(runs), file=sys.stdout):
        if future.status == "finished":
            append_run(future.result(), path)
        else:
            errors += 1
            error = future.exception()
            hint = (
                " Was there enough memory?" if isinstance(error, KilledWorker) else ""
            )
            print(f"\n{futures[future]}: {error!r}{hint}")
        future.release()
    return errors
