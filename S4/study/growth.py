"""How the time of an epoch grows, and the study's throughput, beside the ideal.

All with the network as it was before the savings of time, on whole pictures.
Part of `python -m S4.study bench`.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from dask.distributed import Client
from matplotlib.figure import Figure

from .runs import local_cluster, train_all
from .timing import DATA, count_operations, make_ours, take_turns
from .variants import VARIANTS

FIGURE = Path(__file__).with_name("figures") / "growth.png"
THREADS, BATCH_SIZES, SHARES = (1, 2), (32, 128, 512, 2048), (0.25, 0.5, 1)
WIDTHS = {0.5: "half as wide", 1: "before", 2: "twice as wide"}  # variants
WORKERS = (1, 2)


def measure(nb, repeats=3, limit=None):
    """Return {what grows: {"values", "seconds" of an epoch, "ideal" seconds}}.

    Medians of `repeats` turns. The ideal is half the time on twice the threads, a time
    in proportion to images, the same time for all batch sizes, and one in proportion to
    the operations for the width. For the study it is runs of one epoch an hour.
    """
    whole = limit or 60_000
    nets = {w: VARIANTS[name].load()[1]["make_net"] for w, name in WIDTHS.items()}
    points = {("threads", n): {"threads": n} for n in THREADS}
    points |= {("training images", round(s * whole)): {} for s in SHARES}
    points |= {("batch size", n): {"batch_size": n} for n in BATCH_SIZES}
    points |= {("width", w): {"make_net": make_net} for w, make_net in nets.items()}
    makers = {}
    for (name, value), changes in points.items():
        images = value if name == "training images" else limit
        changes = {"make_net": nets[1]} | changes
        makers[name, value] = partial(make_ours, nb, images, **changes)
    times, _ = take_turns(makers, repeats, nb.device)
    work = {w: count_operations(make_net(), "cpu") for w, make_net in nets.items()}
    seconds = {key: float(np.median(column)) for key, column in times.items()}
    ideal = {
        "threads": lambda n: seconds["threads", 1] / n,
        "training images": lambda n: seconds["training images", whole] * n / whole,
        "batch size": lambda n: seconds["batch size", 128],
        "width": lambda w: seconds["width", 1] * work[w] / work[1],
    }
    found = {name: {"values": [], "seconds": [], "ideal": []} for name in ideal}
    for (name, value), spent in seconds.items():
        found[name]["values"].append(value)
        found[name]["seconds"].append(spent)
        found[name]["ideal"].append(ideal[name](value))
    rates = [throughput(workers, repeats, limit) for workers in WORKERS]
    scaled = [rates[0] * workers for workers in WORKERS]
    found["study workers"] = {"values": list(WORKERS), "runs_per_hour": rates}
    found["study workers"]["ideal"] = scaled
    return found


def throughput(workers, repeats, limit):
    """Return how many runs of one epoch a study finishes in an hour."""
    run = {"variant": "before", "epochs": 1, "split": "test", "train_limit": limit}
    with (
        tempfile.TemporaryDirectory() as folder,
        local_cluster(workers) as cluster,
        Client(cluster) as client,
    ):
        results = Path(folder, "results.jsonl")
        warm = [run | {"seed": n, "train_limit": 100} for n in range(workers)]
        train_all(client, warm, str(DATA), results)
        started = time.perf_counter()
        runs = [run | {"seed": n} for n in range(repeats * workers)]
        if train_all(client, runs, str(DATA), results):
            raise RuntimeError("A run failed: see above.")
        return 3600 * len(runs) / (time.perf_counter() - started)


def table(found):
    """Return what was measured as a Markdown table."""
    lines = ["| What grows | Values | Epoch, s | Ideal, s |", "|---|---|---|---|"]
    for name, series in found.items():
        times = series.get("seconds") or series["runs_per_hour"]
        unit = "" if "seconds" in series else "runs an hour: "
        values = ", ".join(f"{value:,}" for value in series["values"])
        both = [
            ", ".join(f"{n:.1f}" for n in part) for part in (times, series["ideal"])
        ]
        lines.append(f"| {name} | {values} | {unit}{both[0]} | {both[1]} |")
    return "\n".join(lines)


def draw(found, path=FIGURE):
    """Draw each series on two logarithmic axes, beside its ideal line."""
    figure = Figure(figsize=(9, 5.4), layout="constrained", facecolor="white")
    axes = list(figure.subplots(2, 3).flat)
    for axis, (name, series) in zip(axes, found.items(), strict=False):
        values = series["values"]
        times = series.get("seconds") or series["runs_per_hour"]
        axis.plot(values, series["ideal"], "--", color="gray", label="ideal")
        axis.plot(values, times, "o-", label="measured")
        ylabel = "epoch, s" if "seconds" in series else "runs an hour"
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel=ylabel, xticks=values)
        axis.set_xticklabels([f"{value:,}" for value in values])
        low, high = min(*times, *series["ideal"]), max(*times, *series["ideal"])
        ticks = [n * 10**e for e in range(-2, 6) for n in (1, 1.5, 2, 3, 5, 7)]
        ticks = [t for t in ticks if low / 2 <= t <= high * 2]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ylim(low / 1.5, high * 1.5)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=110)
