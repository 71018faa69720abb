"""The evidence: variants of the notebook's recipe, each trained with several seeds.

    python -m S4.study run --variant recipe --seeds 1-20 --split test
    python -m S4.study run --seeds 101-108   every decision, validation split
    python -m S4.study status --seeds 101-108    what is missing; how long it takes
    python -m S4.study list                  the variants, in a line each
    python -m S4.study report                writes REPORT.md and its figures
    python -m S4.study bench                 how long it takes, beside others
    python -m S4.study pictures              how pictures from elsewhere are read

Runs go to a Dask cluster: one on this machine, or with `--scheduler tcp://HOST:PORT` an
existing one, whose workers are best started with --no-nanny: a nanny sets
MALLOC_TRIM_THRESHOLD_, which doubles the time of a training. Each finished run is one
line of results.jsonl. Started again, the command trains only what is missing there.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import median

from dask.distributed import Client
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from ..notebook_file import NOTEBOOK, alone, plain_console
from . import bench, pictures, report
from .runs import NEEDED, SAME, local_cluster, read_runs, train_all
from .variants import VARIANTS, identity

RESULTS = report.HERE / "results.jsonl"
WORKERS = max(1, min(CPU_COUNT, int(MEMORY_LIMIT / NEEDED)))
# Sizes and the lesson's starting network are asked for by name: they take long.
ABLATION = [n for n, v in VARIANTS.items() if v.group in ("reference", "ablation")]


def as_seeds(text):
    """Return [1, 2, 3] for "1-3" or "3-1", and [4] for "4"."""
    first, _, last = text.partition("-")
    low, high = sorted((int(first), int(last or first)))
    return list(range(low, high + 1))


def parse():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("S4.study", None, __doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("report")
    commands.add_parser("pictures")
    timing = commands.add_parser("bench")
    timing.add_argument("--quick", action="store_true", help="a trial on 1,000 images")
    common = argparse.ArgumentParser(add_help=False)
    option = common.add_argument
    option("--variant", nargs="+", choices=VARIANTS, metavar="NAME", default=ABLATION)
    option("--seeds", nargs="+", type=as_seeds, default=[[1, 2, 3]], help="1 2 or 1-20")
    option("--epochs", type=int, help="default: the notebook's")
    option("--split", choices=["test", "validation"], default="validation")
    option("--train-limit", type=int, help="so many images only, for a trial")
    option("--results", type=Path, default=RESULTS, help="the file to extend")
    option("--workers", type=int, default=WORKERS, help=f"on this machine: {WORKERS}")
    commands.add_parser("status", parents=[common])
    option = commands.add_parser("run", parents=[common]).add_argument
    option("--scheduler", help="address of an existing Dask cluster")
    option("--data-dir", default=str(NOTEBOOK.with_name("data")), help="on each worker")
    return parser.parse_args()


def missing(options):
    """Return the runs that `options` ask for and that are not in the results yet."""
    done = {tuple(run[key] for key in SAME) for run in read_runs(options.results)}
    recipes = {name: VARIANTS[name].load()[1] for name in options.variant}
    known_as = {name: identity(recipe) for name, recipe in recipes.items()}
    limits = {"split": options.split, "train_limit": options.train_limit}
    wanted = [
        {"variant": name, "identity": known_as[name], "seed": seed}
        | {"epochs": options.epochs or recipe["epochs"], **limits}
        # Seed by seed: a study that is stopped early has a little of everything.
        for seed in sorted(set().union(*options.seeds))
        for name, recipe in recipes.items()
    ]
    runs = [run for run in wanted if tuple(run[key] for key in SAME) not in done]
    print(f"{len(wanted) - len(runs)} of {len(wanted)} runs are done already")
    return runs


def status(options):
    """Print what `run` would still have to train, and how long that may take."""
    runs, paces = missing(options), {}
    is_cpu = VARIANTS["recipe"].load()[0].device.type == "cpu"
    for done in read_runs(options.results):
        is_alike = done["device"].startswith("CPU") == is_cpu
        epochs = len(done["history"]["eval_loss"])
        if epochs and done["train_limit"] is None and is_alike:
            pace = done["seconds"] / epochs
            paces.setdefault(done["identity"], []).append(pace)
    for name, count in Counter(run["variant"] for run in runs).items():
        print(f"{name:<34} {count} missing")
    if not paces:
        print("How long it takes is known when a first run is finished.")
        return
    known = {of: median(pace) for of, pace in paces.items()}
    usual = median(known.values())
    seconds = sum(r["epochs"] * known.get(r["identity"], usual) for r in runs)
    hours = seconds / 3600 / options.workers
    print(f"about {hours:.1f} hours with {options.workers} workers, by the runs so far")


def run(options):
    """Train what is missing; return the number of errors."""
    if not (runs := missing(options)):
        return 0
    if not options.scheduler:
        VARIANTS["recipe"].load()[0].split_data(options.data_dir, "test")  # fetch once
    with Client(options.scheduler or local_cluster(options.workers)) as client:
        return train_all(client, runs, options.data_dir, options.results)


def run_alone(options):
    """`run`, while no other study may write to the same file."""
    busy = f"Another study is writing to {options.results}: wait for its end."
    with alone(options.results, busy, f"Finished runs are kept in {options.results}."):
        errors = run(options)
    if errors:
        sys.exit(f"{errors} runs ended in an error; start again to repeat them.")


def main():
    plain_console()
    options = parse()
    if options.command == "report":
        report.renew(read_runs(RESULTS))
    elif options.command == "bench":
        bench.main(options.quick)
    elif options.command == "pictures":
        pictures.main()
    elif options.command == "run":
        run_alone(options)
    elif options.command == "status":
        status(options)
    else:
        print("\n".join(f"{n:<34} {v.description}" for n, v in VARIANTS.items()))


if __name__ == "__main__":
    main()
