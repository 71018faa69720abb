"""How the parameters were chosen: variants of the recipe on the validation split.

    python S4/tuning.py "max_lr 0.4" --seeds 1 2    train a variant
    python S4/tuning.py                             print the results as a table

A variant is trained on the first 50,000 training images and judged on the other 10,000
after the last epoch; each finished run is one line of tuning.jsonl. The test set is not
read. Everything but the variants themselves is loaded from the notebook.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from notebook_loader import load_definitions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "tuning.jsonl"
AUGMENTATION = ("max_rotation", "max_shift", "max_scale", "max_shear")
VALUES = ("batch_size", "max_lr", "weight_decay", "dropout", *AUGMENTATION)


def augmentation(*strengths):
    return dict(zip(AUGMENTATION, strengths, strict=True))


# Where the search began; every variant but the last changes one thing in it.
START = {"max_lr": 0.1, **augmentation(8.0, 2.0, 0.08, 5.0)}
PARAMETERS = {
    "starting point": START,
    "dropout 0": START | {"dropout": 0.0},
    "max_lr 0.2": START | {"max_lr": 0.2},
    "max_lr 0.4": START | {"max_lr": 0.4},
    "batch_size 64": START | {"batch_size": 64},
    "weight_decay 5e-4": START | {"weight_decay": 5e-4},
    "weaker augmentation": START | augmentation(5.0, 1.0, 0.05, 3.0),
    "stronger augmentation": START | augmentation(12.0, 2.5, 0.12, 8.0),
    "strongest augmentation": START | augmentation(15.0, 3.0, 0.15, 12.0),
    "chosen: max_lr 0.2, stronger augmentation": {},  # as it stands in the notebook
}


def three_in_first_block(notebook, net):
    """Nine 3×3 convolutions instead of eight: 8,8,8 | 16,16,16 | 22,22,22."""
    net.block1.extend(notebook.conv3x3(8, 8))


def four_in_last_block(notebook, net):
    """A deeper, thinner end: 8,8 | 14,14,14 | 20,20,20,20."""
    conv3x3, dropout = notebook.conv3x3, notebook.dropout
    net.block2 = nn.Sequential(*conv3x3(8, 14), *conv3x3(14, 14))
    net.transition2 = notebook.transition(14, 14, dropout)
    last = [layer for _ in range(3) for layer in conv3x3(20, 20)]
    net.block3 = nn.Sequential(*conv3x3(14, 20), *last, nn.Dropout(dropout))
    net.prediction = nn.Conv2d(20, 10, kernel_size=1)


def wider_but_shallower(notebook, net):
    """Two convolutions a block: 8,16 | 16,24 | 24,24."""
    conv3x3, dropout = notebook.conv3x3, notebook.dropout
    net.transition1 = notebook.transition(8, 16, dropout)
    net.block2 = nn.Sequential(*conv3x3(16, 16))
    net.transition2 = notebook.transition(16, 24, dropout)
    net.block3 = nn.Sequential(*conv3x3(24, 24), *conv3x3(24, 24), nn.Dropout(dropout))
    net.prediction = nn.Conv2d(24, 10, kernel_size=1)


def late_pooling(notebook, net):
    """MaxPool in its usual place, after BatchNorm and ReLU."""
    for part in ("transition1", "transition2"):
        conv, pool, batchnorm, relu, dropout = getattr(net, part)
        setattr(net, part, nn.Sequential(conv, batchnorm, relu, pool, dropout))


# Other networks at the starting point: edits of the notebook's.
NETWORKS = {
    "three in the first block": three_in_first_block,
    "four in the last block": four_in_last_block,
    "wider but shallower": wider_but_shallower,
    "MaxPool after ReLU": late_pooling,
}


def train_variant(variant, seed):
    """Train one variant and return its result as a dict fit for JSON."""
    notebook = load_definitions(**PARAMETERS.get(variant, START))
    train_data, validation_data = notebook.split_data(HERE / "data", "validation")
    torch.manual_seed(seed)
    net = notebook.Net(notebook.dropout)
    if variant in NETWORKS:
        NETWORKS[variant](notebook, net)
    net = notebook.to_device(net, torch.device("cpu"))
    history = []
    started = time.perf_counter()
    notebook.fit(
        net,
        notebook.make_loader(*train_data, notebook.batch_size, shuffle=True),
        notebook.make_loader(*validation_data, 1000, shuffle=False),
        history,
        notebook.recipe,
        judge_on="validation",
    )
    return {
        "variant": variant,
        "seed": seed,
        "judge_on": "validation",
        "values": {name: vars(notebook)[name] for name in VALUES},
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "epochs": len(history),
        "last_accuracy": history[-1]["test_accuracy"],
        "accuracies": [round(row["test_accuracy"], 2) for row in history],
        "train_accuracy": round(history[-1]["train_accuracy"], 2),
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
    }


def table(results=RESULTS):
    """Return the results as a Markdown table, the most accurate variant first."""
    runs = {}
    for line in results.read_text().splitlines():
        run = json.loads(line)
        runs.setdefault((run["variant"], run["parameters"]), []).append(run)
    rows = []
    for (variant, parameters), group in runs.items():
        accuracies = [run["last_accuracy"] for run in group]
        seeds = ", ".join(str(run["seed"]) for run in group)
        rows.append((statistics.mean(accuracies), variant, parameters, seeds))
    head = "| Variant | Parameters | Seeds | Validation accuracy |\n|---|---|---|---|\n"
    return head + "".join(
        f"| {variant} | {parameters:,} | {seeds} | {accuracy:.2f} % |\n"
        for accuracy, variant, parameters, seeds in sorted(rows, reverse=True)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    arguments = parser.parse_args()
    known = [*PARAMETERS, *NETWORKS]
    if unknown := set(arguments.variants) - set(known):
        parser.error(f"unknown: {', '.join(unknown)}; there are: {'; '.join(known)}")
    if not arguments.variants:
        print(table(), end="")
    torch.set_num_threads(1)  # so that two of these share two cores fairly
    for variant in arguments.variants:
        for seed in arguments.seeds:
            result = train_variant(variant, seed)
            with RESULTS.open("a") as results:
                results.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
