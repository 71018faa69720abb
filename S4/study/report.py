"""What the runs in results.jsonl show: REPORT.md and its figures, from that file alone.

The prose is in report.md.jinja; here are the numbers.
"""

import math
import sys
import warnings
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
from scipy import stats

from ..notebook_file import NOTEBOOK, facts_table, fill, read_notebook, tagged
from .variants import VARIANTS, identity

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
TARGET = 99.40
RECIPE = "recipe"
LEAN = "lean, 4,784, separable"  # the smallest that README says to reach the target
ABLATION_EPOCHS = 6  # of the runs behind the notebook's "Measured" column
EARLY = "How to tell early that it goes badly"


def load(runs, identities):
    """Return a data frame of `runs`, a row each, without trials on a part of the data.

    `variant` is the one that now has the run's identity by `identities`, {name:
    identity}; it is missing if none has. `accuracy` is missing if the run failed.
    """
    names = {identity: name for name, identity in reversed(identities.items())}
    rows = []
    for run in runs:
        if run["train_limit"] is None:
            accuracies = [row["eval_accuracy"] for row in run["history"]]
            last = math.nan if run["failed"] else accuracies[-1]
            name = names.get(run["identity"])
            now = {"variant": name, "group": VARIANTS[name].group if name else None}
            then = {"trained_as": run["variant"], "accuracies": accuracies}
            rows.append(run | now | then | {"accuracy": last})
    return pd.DataFrame(rows)


def full_test_runs(frame, variant=RECIPE):
    """Return the runs of a variant on the test set, the longest schedule's only."""
    runs = frame[(frame["variant"] == variant) & (frame["split"] == "test")]
    return runs[runs["epochs"] == runs["epochs"].max()]


def ablation_runs(frame):
    """Return the short runs of the recipe and its variants on the validation split."""
    is_short = (frame["split"] == "validation") & (frame["epochs"] == ABLATION_EPOCHS)
    return frame[is_short & frame["variant"].notna()]


def holds_from(accuracies):
    """Return the first epoch from which all `accuracies` reach the target, or None."""
    below = [epoch for epoch, value in enumerate(accuracies, 1) if value < TARGET]
    first = max(below, default=0) + 1
    return first if first <= len(accuracies) else None


def difference(values, reference):
    """Return mean difference and its 95 % confidence interval (Welch), in points.

    The interval is None if one side has a single value.
    """
    shift = np.mean(values) - np.mean(reference)
    if min(len(values), len(reference)) < 2:
        return shift, None
    with warnings.catch_warnings():  # equal values on one side are no trouble
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(values, reference, equal_var=False)
    return shift, tuple(test.confidence_interval(0.95))


def early_correlation(runs, epoch):
    """Return Spearman's rank correlation of the accuracy after `epoch` with the last.

    Runs that failed have no last accuracy and are left out.
    """
    finished = runs.dropna(subset="accuracy")
    early = [accuracies[epoch - 1] for accuracies in finished["accuracies"]]
    return stats.spearmanr(early, finished["accuracy"]).statistic


def level(accuracies):
    """Return mean and standard deviation as text, and how many of the runs failed."""
    finished, failed = accuracies.dropna(), accuracies.isna().sum()
    parts = [f"{finished.mean():.2f}"] if len(finished) else []
    if len(finished) > 1:
        parts = [f"{parts[0]} ± {finished.std():.2f}"]
    return ", ".join([*parts, f"{failed} failed"] if failed else parts)


def summary(runs, keys=("variant", "parameters")):
    """Return a row for each group of runs alike in `keys`, as they first appear."""
    groups = runs.groupby(list(keys), sort=False, dropna=False)
    accuracy = groups["accuracy"]
    rows = accuracy.agg(seeds="size", mean="mean", sd="std", lowest="min", level=level)
    rows["finished"] = accuracy.agg(lambda values: list(values.dropna()))
    rows["seconds"] = groups["seconds"].mean().round().astype(int)
    return rows.reset_index()


def best_first(rows):
    return rows.sort_values("mean", ascending=False, kind="stable")


def seed_facts(runs):
    """Return the figures of one network's runs on the test set, as a dict."""
    last = runs["accuracy"]
    held = runs.loc[last.notna(), "accuracies"].map(holds_from)
    never = len(runs) - held.count()
    return {
        "seeds": len(runs),
        "mean": f"{last.mean():.3f} %",
        "standard deviation": f"{last.std():.3f}" if last.count() > 1 else "–",
        "lowest": f"{last.min():.2f} %",
        "highest": f"{last.max():.2f} %",
        "at or above 99.40 %": f"{(last >= TARGET).sum()} of {len(runs)}",
        "stay there from epoch": f"{never} runs never do"
        if never
        else f"{held.median():.0f} (median), {held.max():.0f} (latest)",
    }


def lean_facts(runs):
    """Return the figures of the smallest network's runs, as a dict."""
    return {"parameters": f"{runs['parameters'].iloc[0]:,}", **seed_facts(runs)}


def table(head, rows):
    """Return rows under a heading, "name | name", as a Markdown table."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def signed(number):
    """Return a difference as text: "+0.05", "−0.05", or "0.00" without a sign."""
    text = f"{number:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def ablation_rows(runs):
    """Return a row for each variant, the best first, with its difference to the recipe.

    None if there is nothing to compare.
    """
    expected = runs.loc[runs["variant"] == RECIPE, "accuracy"]
    rows = []
    for row in best_first(summary(runs)).itertuples():
        cells = [row.variant, VARIANTS[row.variant].description, f"{row.parameters:,}"]
        if row.variant == RECIPE or not row.finished:
            rows.append([*cells, row.seeds, row.level, "", ""])
            continue
        shift, interval = difference(row.finished, expected)
        bounds = " to ".join(map(signed, interval)) if interval else "–"
        rows.append([*cells, row.seeds, row.level, signed(shift), bounds])
    return rows if len(rows) > 1 and len(expected) else None


def early_rows(runs):
    """Return how well some epochs foretell the last, for each length of schedule."""
    return [
        [epochs, len(group), epoch, f"{early_correlation(group, epoch):.2f}"]
        for epochs, group in runs.dropna(subset="accuracy").groupby("epochs")
        for epoch in (1, 2, 3, 5)
        if epoch < epochs and len(group) >= 5
    ]


def measured(runs):
    """Return {consideration: what its variants are worth}; bold if more than noise.

    `runs` are those of the recipe and its ablations, all of the same length and split.
    """
    expected = runs.loc[runs["variant"] == RECIPE, "accuracy"]
    first, third = (early_correlation(runs, epoch) for epoch in (1, 3))
    early = f"{first:.2f} after epoch 1, {third:.2f} after 3"
    found = {EARLY: [f"rank correlation with the last epoch: {early}"]}
    for row in summary(runs, ["variant"]).itertuples():
        if consideration := VARIANTS[row.variant].consideration:
            text = f"{len(row.finished)} of {row.seeds} trained"
            if len(row.finished) == row.seeds:
                shift, interval = difference(row.finished, expected)
                is_noise = not interval or interval[0] <= 0 <= interval[1]
                text = signed(shift) if is_noise else f"**{signed(shift)}**"
            found.setdefault(consideration, []).append(f"{row.variant} {text}")
    return {name: "; ".join(parts) for name, parts in found.items()}


def save(axes, path, **line):
    """Mark the target in a picture, and save it on white, to be read on a dark page."""
    mark = axes.axvline if "x" in line else axes.axhline
    mark(TARGET, color="tab:red", ls="--", label="the exercise's 99.40 %")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.figure.savefig(path, dpi=110, facecolor="white", bbox_inches="tight")
    plt.close(axes.figure)


def draw_seeds(runs, folder):
    """Draw how many seeds end at which accuracy, and the way there."""
    last = runs["accuracy"].dropna()
    low, high = min(TARGET, last.min()), last.max()
    edges = low - 0.005 + 0.01 * np.arange(round((high - low) / 0.01) + 2)
    axes = last.plot.hist(bins=edges, figsize=(8, 3.2), edgecolor="white", label="")
    axes.set(xlabel="test accuracy after the last epoch, %", ylabel="seeds")
    axes.yaxis.get_major_locator().set_params(integer=True)
    save(axes, folder / "seeds.png", x=True)
    curves = pd.DataFrame(list(runs.dropna(subset="accuracy")["accuracies"]))
    curves.columns += 1
    axes = curves.mean().plot(figsize=(8, 4), marker="o", label="mean")
    low, high = curves.min(), curves.max()
    axes.fill_between(curves.columns, low, high, alpha=0.25, label="lowest to highest")
    axes.set(xlabel="epoch", ylabel="test accuracy, %", xticks=curves.columns)
    axes.set_ylim(max(low.min(), 97.0), high.max() + 0.1)
    save(axes, folder / "epochs.png")


def draw_parameters(series, published, folder):
    """Draw accuracy against parameters: ours with standard deviation, others' points.

    `series` is {label: rows of `summary`}.
    """
    x, y = "parameters", "last_accuracy"
    axes = published.plot.scatter(x, y, marker="x", color="dimgray", figsize=(8, 4.6))
    axes.collections[0].set_label("published: a single run each")
    for label, rows in series.items():
        rows = rows.sort_values(x).fillna({"sd": 0})
        style = {"marker": "o", "capsize": 3, "label": f"{label}: mean ± sd"}
        axes.errorbar(rows[x], rows["mean"], rows["sd"], **style)
    ticks = [1500, 2500, 5000, 10000, 20000]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="parameters (log scale)", ylabel="last-epoch test accuracy, %")
    save(axes, folder / "parameters.png")


def write_report(frame, folder):
    """Write REPORT.md and its figures into `folder`."""
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    recipe = full_test_runs(frame)
    full = frame[frame["epochs"] == recipe["epochs"].max()]
    groups = dict(list(full[full["split"] == "test"].groupby("group")))
    sizes = pd.concat([recipe, groups.get("size", full[:0])])
    series = {
        "our recipe, narrower and wider": summary(sizes),
        "made for few parameters": summary(groups.get("lean", full[:0])),
    }
    published = pd.read_csv(HERE / "published.csv")
    search = pd.read_json(HERE / "search.jsonl", lines=True)
    search["accuracy"] = search["averaged"].fillna(search["accuracy"])
    if len(recipe):
        draw_seeds(recipe, figures)
        draw_parameters(series, published, figures)
    template = jinja2.Template(HERE.joinpath("report.md.jinja").read_text("utf-8"))
    data = {"frame": frame, "full": full, "recipe": recipe, "search": search}
    data |= {"sizes": pd.concat(series.values()), "published": published}
    text = template.render(**data, report=sys.modules[__name__], variants=VARIANTS)
    (folder / "REPORT.md").write_text(text + "\n", "utf-8")


def renew(runs):
    """Write REPORT.md, and renew what notebook and README quote from the runs."""
    identities = {name: identity(v.load()[1]) for name, v in VARIANTS.items()}
    frame = load(runs, identities)
    write_report(frame, HERE)
    lean = lean_facts(full_test_runs(frame, LEAN))
    seeds = facts_table(seed_facts(full_test_runs(frame)), "many seeds")
    notebook, readme = read_notebook(), README.read_text("utf-8")
    cell = tagged(notebook, "seeds")
    cell.source = fill(cell.source, "seeds", seeds)
    cell = tagged(notebook, "considerations")
    for name, text in measured(ablation_runs(frame)).items():
        cell.source = fill(cell.source, name, text)
    readme = fill(readme, "seeds", seeds)
    readme = fill(readme, "lean", facts_table(lean, "few parameters"))
    nbformat.write(notebook, NOTEBOOK)
    README.write_text(readme, "utf-8")
