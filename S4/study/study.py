"""The evidence: variants of the notebook's recipe, each trained with several seeds.

    python S4/study/study.py run --variant recipe --seeds 1-20 --split test
    python S4/study/study.py run --epochs 6        the ablations, validation split
    python S4/study/study.py list                  the variants, in a line each
    python S4/study/study.py report                writes REPORT.md and its figures

Runs go to a Dask cluster: one on this machine, or with `--scheduler tcp://HOST:PORT` an
existing one, whose workers are best started with --no-nanny: a nanny sets
MALLOC_TRIM_THRESHOLD_, which doubles the time of a training. Each finished run is one
line of results.jsonl. Started again, the command trains only what is missing there.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import dask
import nbformat
import torch
from dask.distributed import Client, LocalCluster, as_completed
from tqdm import tqdm

STUDY = Path(__file__).resolve().parent
sys.path.insert(0, str(STUDY.parent))
sys.path.insert(0, str(STUDY))

import report  # noqa: E402
import variants  # noqa: E402

import notebook_loader  # noqa: E402
from reading import with_table  # noqa: E402

README = STUDY.parents[1] / "README.md"
RESULTS = STUDY / "results.jsonl"
DATA = STUDY.parent / "data"
# Sizes and the lesson's starting network are asked for by name: they take long.
ABLATION = [
    name for name, v in variants.VARIANTS.items() if v.group in ("recipe", "ablation")
]
# A GPU trains several networks this small at once; how many are best is not measured.
WORKERS = 4 if torch.cuda.is_available() else os.cpu_count()


def read_results(path=RESULTS):
    """Return the runs in the file `path`, one dict each; none if there is no file.

    A last line that is torn (the writer was killed) is dropped from the file, and said
    so. Raises ValueError if any other line cannot be read.
    """
    if not path.exists():
        return []
    *lines, last = path.read_text("utf-8").split("\n")
    if last:
        print(f"{path.name}: the last line is torn and was dropped: {last[:60]} ...")
        with path.open("r+b") as results:
            results.truncate(len("".join(f"{line}\n" for line in lines).encode()))
    return [json.loads(line) for line in lines]


def append_result(run, path=RESULTS):
    """Append one run to the file `path`, and see it safely to the disk."""
    with path.open("a", encoding="utf-8") as results:
        results.write(json.dumps(run) + "\n")
        results.flush()
        os.fsync(results.fileno())


def identity(run):
    """Return what makes two runs the same."""
    keys = "recipe", "variant", "seed", "epochs", "split", "train_limit"
    return tuple(run[key] for key in keys)


def missing(runs, recipe, path=RESULTS):
    """Return those of `runs` that are not in the file `path` yet for this recipe."""
    done = {identity(run) for run in read_results(path)}
    return [run for run in runs if identity({**run, "recipe": recipe}) not in done]


def send_code(client):
    """Give all workers, on any machine, the notebook and the code that reads it."""
    client.upload_file(str(notebook_loader.NOTEBOOK), load=False)
    client.upload_file(notebook_loader.__file__)
    client.upload_file(variants.__file__)


def train_all(client, runs, data_dir=DATA, path=RESULTS):
    """Train `runs` on the cluster; append each to the file `path` when it is finished.

    Returns the number of runs that raised an error. They are printed, not recorded, so
    that they are tried again next time.
    """
    send_code(client)
    futures = {
        client.submit(
            variants.train, **run, data_dir=str(data_dir), retries=2, pure=False
        ): run
        for run in runs
    }
    errors = 0
    for future in tqdm(as_completed(futures), "Runs", len(runs), file=sys.stdout):
        if future.status == "finished":
            append_result(future.result(), path)
        else:
            errors += 1
            print(f"\n{futures[future]}: {future.exception()!r}")
        future.release()
    return errors


def as_seeds(text):
    """Return [1, 2, 3] for "1-3", and [4] for "4"."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the variants")
    commands.add_parser("report", help="write REPORT.md from results.jsonl")
    run = commands.add_parser("run", help="train what is missing in results.jsonl")
    run.add_argument(
        "--variant", nargs="+", choices=variants.VARIANTS, metavar="VARIANT",
        default=ABLATION, help="default: the recipe and its ablations",
    )  # fmt: skip
    run.add_argument(
        "--seeds", nargs="+", type=as_seeds, metavar="SEED", default=[[1, 2, 3]],
        help="for example 1 2 3 or 1-20",
    )  # fmt: skip
    run.add_argument("--epochs", type=int, help="default: the notebook's")
    run.add_argument("--split", choices=["test", "validation"], default="validation")
    run.add_argument("--train-limit", type=int, help="so many images only, for a trial")
    run.add_argument("--results", type=Path, default=RESULTS, help="the file to extend")
    run.add_argument("--scheduler", help="address of an existing Dask cluster")
    run.add_argument("--workers", type=int, default=WORKERS, help="on this machine")
    run.add_argument(
        "--data-dir", default=str(DATA),
        help="where a worker keeps MNIST; fetched there if it is missing",
    )  # fmt: skip
    return parser.parse_args()


def run(options):
    """Train what `options` ask for and is missing; return the number of errors."""
    nb = notebook_loader.load_definitions()
    # Seed by seed: a study that is stopped early has a little of everything.
    wanted = [
        {
            "variant": variant,
            "seed": seed,
            "epochs": options.epochs or nb.epochs,
            "split": options.split,
            "train_limit": options.train_limit,
        }
        for seeds in options.seeds
        for seed in seeds
        for variant in options.variant
    ]
    runs = missing(wanted, variants.recipe_id(nb), options.results)
    print(f"{len(wanted) - len(runs)} of {len(wanted)} runs are done already")
    if not runs:
        return 0
    if options.scheduler:
        with Client(options.scheduler) as client:
            return train_all(client, runs, options.data_dir, options.results)
    nb.ensure_mnist(options.data_dir)  # once, before all workers ask for it together
    # Dask's setting makes every worker give memory back at once; training then spends
    # much of its time on getting it again.
    keep_memory = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
    dask.config.set(keep_memory)
    cluster = LocalCluster(
        options.workers, threads_per_worker=1, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        return train_all(client, runs, options.data_dir, options.results)


def write_report():
    """Write REPORT.md, and renew the tables that notebook and README quote from it."""
    recipe = variants.recipe_id(notebook_loader.load_definitions())
    runs = read_results()
    report.write_report(runs, recipe, variants.VARIANTS)
    recipes = report.full_test_runs(runs, recipe)
    if not recipes:
        return
    facts = report.recipe_facts(recipes)
    ablations = report.ablation_runs(runs, recipe)
    notebook = nbformat.read(notebook_loader.NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            quoted = with_table(cell.source, report.SEEDS_HEADING, facts)
            cell.source = report.with_measurements(quoted, ablations)
        elif "study" in cell.metadata.get("tags", []):
            cell.source = report.study_cell(ablations)
    nbformat.write(notebook, notebook_loader.NOTEBOOK)
    readme = with_table(README.read_text("utf-8"), report.SEEDS_HEADING, facts)
    if lean := report.full_test_runs(runs, recipe, report.LEAN):
        readme = with_table(readme, report.LEAN_HEADING, report.lean_facts(lean))
    README.write_text(readme, "utf-8")


def main():
    options = parse()
    if options.command == "list":
        for name, variant in variants.VARIANTS.items():
            print(f"{name:<34} {variant.description}")
    elif options.command == "report":
        write_report()
    elif errors := run(options):
        sys.exit(f"{errors} runs ended in an error; start again to repeat them.")


if __name__ == "__main__":
    main()
