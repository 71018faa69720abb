"""How long training takes, beside what others use, and beside what is possible.

    python -m S4.study bench              everything: about half an hour on two cores
    python -m S4.study bench --quick      on 1,000 images: is everything in order?

Writes bench.json and figures/growth.png beside this file, and the tables of it into the
README. The contestants take turns, one epoch each, so that whatever else the machine is
doing meets them alike; ratios are taken within each turn. Where flax and optax are
installed, Flax's MNIST tutorial is a contestant, too.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cpuinfo
import nbformat
import numpy as np
import pandas as pd
import psutil
import torch
from torch import nn

from ..notebook_file import NOTEBOOK, execute, facts_table, fill, load_definitions
from . import growth
from .contestants import HAS_FLAX, Basic, Earlier, Flax, PerPicture
from .timing import DATA, count_operations, make_ours, seconds_of, take_turns

ROOT = NOTEBOOK.parents[1]
RESULTS = Path(__file__).with_name("bench.json")
WORKERS = (0, 2, 4)
OURS = "ours"  # the mean over a run, of epochs on pictures of several sizes
SIZE = "– on {0}×{0} pixels"
FED = "the earlier network, fed per picture, {} workers"
BASIC = "the basic MNIST example"


def epochs_of_size(nb):
    """Return {width of the pictures in pixels: how many epochs of a run see it}."""
    epochs = range(1, nb.epochs + 1)
    return Counter(28 - 2 * nb.margin(epoch, nb.epochs) for epoch in epochs)


def mean_epoch(nb, of_size):
    """Return the mean over a run of `of_size(size)`, what an epoch of a size takes."""
    epochs = epochs_of_size(nb)
    return sum(number * of_size(size) for size, number in epochs.items()) / nb.epochs


def make_contestants(nb, limit=None):
    """Return {name: a function that makes the contestant and returns its epoch}.

    They are made when their turn first comes: a DataLoader may fork its workers only
    before JAX has been started.
    """
    train_data, eval_data = nb.split_data(DATA, "test", limit)
    data = train_data, tuple(part[:limit] for part in eval_data)
    sizes = epochs_of_size(nb)
    ours = {n: partial(make_ours, nb, limit, margin=(28 - n) // 2) for n in sizes}
    made = {SIZE.format(size): make for size, make in ours.items()}
    made["the earlier network, as trained then"] = lambda: Earlier(*data).epoch
    for workers in WORKERS:
        fed = partial(PerPicture, nb.device, DATA, workers, limit)
        made[FED.format(workers)] = lambda fed=fed: fed().epoch
    made[BASIC] = lambda: Basic(nb.device, DATA, limit=limit).epoch
    if HAS_FLAX:
        made["Flax's MNIST tutorial"] = lambda: Flax(*data).epoch
    return made


def measure_floor(nb):
    """The least that an epoch can take: its arithmetic and its data at full speed.

    The rate is the better one of a large matrix product and a large convolution, in
    float32 like the training. Bytes: each image read once; everything else could stay
    in a cache.
    """
    net = nb.recipe["make_net"]().to(nb.device)
    operations = mean_epoch(nb, partial(count_operations, net, nb.device))
    data = 70_000 * 28 * 28 * 4
    matrix = torch.randn(2048, 2048, device=nb.device)
    conv = nn.Conv2d(64, 64, 3, bias=False)
    conv = conv.to(nb.device, memory_format=nb.layout)
    maps = torch.randn(64, 64, 56, 56, device=nb.device)
    maps = maps.to(memory_format=nb.layout)
    block = torch.randn(2**26, device=nb.device)
    target = torch.empty_like(block)
    with torch.inference_mode():
        work = {
            "product": (lambda: matrix @ matrix, 2 * 2048**3),
            "convolution": (lambda: conv(maps), 2 * 64 * 54**2 * conv.weight.numel()),
            "copy": (lambda: target.copy_(block), 2 * 4 * 2**26),
        }
        rates = {
            name: amount / min(seconds_of(action, nb.device) for _ in range(20))
            for name, (action, amount) in work.items()
        }
    best = max(rates["product"], rates["convolution"])
    return {
        "operations": operations,
        "product_per_second": round(rates["product"]),
        "convolution_per_second": round(rates["convolution"]),
        "seconds": max(operations / best, data / rates["copy"]),
    }


def watch_memory(is_over, peaks):
    """Append the memory of each child process to `peaks`, in bytes, until `is_over`."""
    while not is_over.wait(0.2):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                peaks.append(child.memory_info().rss)


def seconds_by_part(notebook):
    """Return {part of the notebook: seconds} of an executed one.

    Parts are part one's sections, training apart, and the whole of part two.
    """
    seconds, part = {}, "start"
    for cell in notebook.cells:
        is_text = cell.cell_type == "markdown"
        for level, title in re.findall(r"^(##|###) (.+)$", cell.source, re.MULTILINE):
            if is_text and (level == "##" or not part.startswith("Part two")):
                part = title
        duration = cell.metadata.get("papermill", {}).get("duration") or 0
        seconds[part] = seconds.get(part, 0) + duration
    return {part: spent for part, spent in seconds.items() if spent}


def measure_run_all():
    """Run the notebook from a cold kernel: seconds in all, and of its parts."""
    is_over, peaks = threading.Event(), []
    threading.Thread(None, watch_memory, None, (is_over, peaks), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out.ipynb")
        started = time.perf_counter()
        execute(NOTEBOOK, target, {"data_dir": str(DATA)})
        total = time.perf_counter() - started
        parts = seconds_by_part(nbformat.read(target, as_version=4))
    is_over.set()
    return {"seconds": total, "parts": parts, "peak_bytes": max(peaks)}


def measure_start_up():
    """Seconds of a new process to import, hash and load the data that is there."""
    code = (
        "import time; from S4.notebook_file import load_definitions;"
        "started = time.perf_counter(); nb = load_definitions();"
        f"nb.split_data({str(DATA)!r}, 'test');"
        "print(time.perf_counter() - started)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def measure(nb, repeats=3, basic_epochs=14, run_all=True, limit=None):
    """Return all measurements as one dict, fit for JSON.

    `limit` takes only so many training images; the seconds are then worth nothing.
    """
    results = {
        "device": nb.device_name,
        "processor": cpuinfo.get_cpu_info().get("brand_raw", "unknown"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "start_up_seconds": [measure_start_up() for _ in range(repeats)],
        "run_all": measure_run_all() if run_all else None,
        "floor": measure_floor(nb),
    }
    make_ours(nb, limit)()  # warms up
    contestants = make_contestants(nb, limit)
    seconds, epochs = take_turns(contestants, repeats, nb.device)
    means = mean_epoch(nb, lambda size: np.array(seconds[SIZE.format(size)]))
    results["epoch_seconds"] = {OURS: means.tolist()} | seconds
    for _ in range(basic_epochs - repeats):
        epochs[BASIC]()
    basic = epochs[BASIC].__self__
    results["basic"] = {
        "parameters": sum(weight.numel() for weight in basic.net.parameters()),
        "epochs": max(basic_epochs, repeats),
        "last_accuracy": basic.accuracy,
    }
    results["growth"] = growth.measure(nb, repeats, limit)
    return results


def epoch_table(results):
    """Return the seconds of one epoch of each contestant, as a Markdown table."""
    seconds, floor = pd.DataFrame(results["epoch_seconds"]), results["floor"]["seconds"]
    ratios = seconds.rdiv(seconds[OURS], axis=0)
    lines = ["| One epoch | Median, s | Ours / this | Range |", "|---|---|---|---|"]
    for name, column in seconds.items():
        ratio = ratios[name]
        spread = f"{ratio.min():.2f}–{ratio.max():.2f}" if name != OURS else ""
        lines.append(
            f"| {name} | {column.median():.1f} | {ratio.median():.2f} | {spread} |"
        )
    ratio = seconds[OURS].median() / floor
    return "\n".join([*lines, f"| the floor | {floor:.1f} | {ratio:.1f} | |"])


def fact_table(results):
    """Return everything else that was measured, as a Markdown table."""
    floor, basic = results["floor"], results["basic"]
    start_up = pd.Series(results["start_up_seconds"]).median()
    facts = {
        "device": f"{results['device']}, {results['processor']}",
        "instructions; torch": f"{results['instructions']}; {results['torch']}",
        "the floor's operations": f"{floor['operations'] / 1e9:,.0f} GFLOP",
        "rate of a large matrix product": (
            f"{floor['product_per_second'] / 1e9:,.0f} GFLOP/s"
        ),
        "rate of a large convolution": (
            f"{floor['convolution_per_second'] / 1e9:,.0f} GFLOP/s"
        ),
        "basic example, parameters": f"{basic['parameters']:,}",
        f"basic example, accuracy after {basic['epochs']} epochs": (
            f"{basic['last_accuracy']:.2f} %"
        ),
        "import, check and load the data": f"{start_up:.1f} s",
    }
    if run := results["run_all"]:
        facts["*Run all* from a cold kernel"] = f"{run['seconds']:.0f} s"
        parts = {name: s for name, s in run["parts"].items() if name != "start"}
        parts["kernel's start, and the rest"] = run["seconds"] - sum(parts.values())
        facts |= {f"– {part}": f"{s:.1f} s" for part, s in parts.items()}
        facts["peak memory of the kernel"] = f"{run['peak_bytes'] / 2**20:,.0f} MiB"
    return facts_table(facts, "besides")


def tables(results):
    """Return {name in the README: table}."""
    return {
        "epochs": epoch_table(results),
        "besides": fact_table(results),
        "growth": growth.table(results["growth"]),
    }


def main(quick):
    nb = load_definitions()
    nb.split_data(DATA, "test")  # fetch it, if it is not there
    results = measure(nb, 1, 1, run_all=False, limit=1000) if quick else measure(nb)
    print("\n\n".join(tables(results).values()))
    if not quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        growth.draw(results["growth"])
        readme = ROOT.joinpath("README.md").read_text("utf-8")
        for name, table in tables(results).items():
            readme = fill(readme, name, table)
        ROOT.joinpath("README.md").write_text(readme, "utf-8", newline="\n")
