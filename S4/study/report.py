"""What the runs show: the numbers and figures; report.md.jinja has words and tables."""

import contextlib
import warnings
from pathlib import Path

import jinja2
import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ..notebook_file import NOTEBOOK, facts_table, fill, read_notebook, tagged
from .variants import VARIANTS, identity

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
SMALLEST = "lean, 4,784, separable"  # the smallest that README says to reach the target
TARGET = 99.40
EARLY = "How to tell early that it goes badly"
ABLATION_EPOCHS = 6  # of the runs behind the notebook's "Measured" column


def load(runs, identities):
    """Return `runs`, but for trials, as a data frame; `variant` by present identity."""
    names = {identity: name for name, identity in reversed(identities.items())}
    whole = (run for run in runs if run["train_limit"] is None)
    rows = [run | {"trained_as": run["variant"]} for run in whole]
    for row in rows:
        row["variant"] = names.get(row["identity"])  # None: of another recipe
        row["accuracies"] = [epoch["eval_accuracy"] for epoch in row["history"]]
        row["accuracy"] = None if row["failed"] else row["accuracies"][-1]
    return pd.DataFrame(rows).astype({"accuracy": float})


def full_test_runs(frame, variant="recipe"):
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
    """Return mean difference and 95 % interval (Welch); None of a single value."""
    shift = np.mean(values) - np.mean(reference)
    if min(len(values), len(reference)) < 2:
        return shift, None
    if np.ptp(values) == np.ptp(reference) == 0:
        return shift, (shift, shift)
    with warnings.catch_warnings():  # equal values on one side are no trouble
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(values, reference, equal_var=False)
    return shift, tuple(test.confidence_interval(0.95))


def differences(runs):
    """Return {variant: its difference from the recipe} of those that have finished."""
    finished = runs.dropna(subset="accuracy")
    last = dict(list(finished.groupby("variant")["accuracy"]))
    return {n: difference(last[n], last["recipe"]) for n in last if "recipe" in last}


def signed(number):
    """Return a difference as text: "+0.05", "−0.05", or "0.00" without a sign."""
    text = f"{number:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def early_correlation(runs, epoch):
    """Return Spearman's correlation of the accuracies after `epoch` and the last."""
    finished = runs.dropna(subset="accuracy")
    early = [accuracies[epoch - 1] for accuracies in finished["accuracies"]]
    return stats.spearmanr(early, finished["accuracy"]).statistic


def seed_facts(runs):
    """Return the figures of one network's runs on the test set, as a dict."""
    last = runs["accuracy"]
    held = runs.loc[last.notna(), "accuracies"].map(holds_from)
    never = len(runs) - held.count()
    since = "" if never else f"{held.median():g} (median), {held.max():g} (latest)"
    return {
        "seeds": len(runs),
        "mean": f"{last.mean():.3f} %",
        "standard deviation": f"{last.std():.3f}" if last.count() > 1 else "–",
        "lowest": f"{last.min():.2f} %",
        "highest": f"{last.max():.2f} %",
        "at or above 99.40 %": f"{(last >= TARGET).sum()} of {len(runs)}",
        "stay there from epoch": since or f"{never} runs never do",
    }


def lean_facts(runs):
    """Return the figures of the smallest network's runs, as a dict."""
    return {"parameters": f"{runs['parameters'].iloc[0]:,}", **seed_facts(runs)}


def measured(runs):
    """Return {consideration: what its variants are worth}; bold if more than noise.

    `runs` are the `ablation_runs`.
    """
    shifts = differences(runs)
    found = {v.consideration: [] for v in VARIANTS.values() if v.consideration}
    for name, variant in VARIANTS.items():
        last = runs.loc[runs["variant"] == name, "accuracy"]
        shift, interval = shifts.get(name, (None, None))
        if failed := last.isna().sum():
            words = f"{name}: {failed} of {len(last)} failed"
        elif interval and (interval[0] > 0 or interval[1] < 0):
            words = f"{name} **{signed(shift)}**"
        else:
            words = f"{name} {signed(shift)}" if name in shifts else ""
        if words and variant.consideration:
            found[variant.consideration].append(words)
    first, third = (early_correlation(runs, epoch) for epoch in (1, 3))
    words = f"{first:.2f} after epoch 1, {third:.2f} after 3"
    found[EARLY] = [f"rank correlation with the last epoch: {words}"]
    return {name: "; ".join(parts) or "–" for name, parts in found.items()}


def summary(runs, keys):
    """Return a row for each group of runs that agree in `keys`, the best first."""
    groups = runs.groupby(keys, sort=False, dropna=False)
    rows = groups["accuracy"].agg(["size", "count", "mean", "std", "min"])
    for column in {"seconds", "loss"} & set(runs):
        rows[column] = groups[column].mean()
    return rows.reset_index().sort_values("mean", ascending=False, kind="stable")


@contextlib.contextmanager
def figure(path, height, upright=False):
    """Give axes to draw on; add the target and save them, white for dark pages too."""
    axes = Figure(figsize=(8.0, height), facecolor="white", layout="tight").subplots()
    axes.grid(alpha=0.3)
    yield axes
    draw_line = axes.axvline if upright else axes.axhline
    draw_line(TARGET, color="tab:red", ls="--", label="the exercise's 99.40 %")
    axes.legend()
    axes.figure.savefig(path, dpi=110)


def draw_figures(runs, sizes, published, folder):
    """Draw where the seeds of `runs` end, how they get there, and what sizes allow."""
    last, curves = runs["accuracy"], np.array(runs["accuracies"].tolist())
    with figure(folder / "seeds.png", 3.2, upright=True) as axes:
        edges = np.arange(min(TARGET, last.min()) - 0.005, last.max() + 0.01, 0.01)
        axes.hist(last, edges, edgecolor="white")
        axes.set(xlabel="test accuracy after the last epoch, %", ylabel="seeds")
        axes.yaxis.get_major_locator().set_params(integer=True)
    with figure(folder / "epochs.png", 4.0) as axes:
        epochs, low, high = range(1, curves.shape[1] + 1), curves.min(0), curves.max(0)
        axes.fill_between(epochs, low, high, alpha=0.25, label="lowest to highest seed")
        axes.plot(epochs, curves.mean(0), marker="o", label="mean")
        axes.set(xlabel="epoch", ylabel="test accuracy, %", xticks=epochs)
        axes.set_ylim(max(low.min(), 97.0), high.max() + 0.1)
    with figure(folder / "parameters.png", 4.6) as axes:
        for few, rows in sizes.sort_values("parameters").groupby(sizes.group == "lean"):
            key = "made for few parameters" if few else "our recipe, narrower and wider"
            points = rows["parameters"], rows["mean"], rows["std"].fillna(0)
            axes.errorbar(*points, marker="o", capsize=3, label=f"{key}: mean ± sd")
        points, key = published["parameters"], "published: a single run each"
        axes.plot(points, published["last_accuracy"], "x", color="dimgray", label=key)
        ticks = [1500, 2500, 5000, 10000, 20000]
        axes.set(xscale="log", xticks=ticks, xticklabels=[f"{n:,}" for n in ticks])
        axes.set(xlabel="parameters (log scale)", ylabel="last-epoch test accuracy, %")
        axes.minorticks_off()


def write_report(frame, folder):
    """Write REPORT.md and its figures into `folder`."""
    groups = {name: variant.group for name, variant in VARIANTS.items()}
    frame = frame.assign(group=frame["variant"].map(groups))
    runs, recipes = frame.dropna(subset="group"), full_test_runs(frame)
    networks = summary(runs, ["variant", "group", "parameters", "epochs", "split"])
    full = networks[networks["epochs"] == recipes["epochs"].max()]
    sizes = full.query("split == 'test' and group in ['recipe', 'size', 'lean']")
    published = pd.read_csv(HERE / "published.csv")
    search = pd.read_json(HERE / "search.jsonl", lines=True)
    (folder / "figures").mkdir(exist_ok=True)
    if len(finished := recipes.dropna(subset="accuracy")):
        draw_figures(finished, sizes, published, folder / "figures")
    shown = {"frame": frame, "runs": runs, "recipes": recipes, "networks": networks}
    shown |= {"full": full, "sizes": sizes, "published": published, "search": search}
    helpers = [summary, differences, signed, early_correlation, seed_facts]
    shown |= {"variants": VARIANTS} | {helper.__name__: helper for helper in helpers}
    source = (HERE / "report.md.jinja").read_text("utf-8")
    template = jinja2.Template(source, trim_blocks=True, lstrip_blocks=True)
    (folder / "REPORT.md").write_text(template.render(shown).rstrip() + "\n", "utf-8")


def renew(runs):
    """Write REPORT.md, and renew what notebook and README quote from the runs."""
    identities = {name: identity(v.load()[1]) for name, v in VARIANTS.items()}
    frame = load(runs, identities)
    write_report(frame, HERE)
    smallest = full_test_runs(frame, SMALLEST)
    seeds = facts_table(seed_facts(full_test_runs(frame)), "many seeds")
    notebook, readme = read_notebook(), README.read_text("utf-8")
    cell = tagged(notebook, "seeds")
    cell.source = fill(cell.source, "seeds", seeds)
    cell = tagged(notebook, "considerations")
    for name, text in measured(ablation_runs(frame)).items():
        cell.source = fill(cell.source, name, text)
    readme = fill(readme, "seeds", seeds)
    if len(smallest):
        lean = facts_table(lean_facts(smallest), "few parameters")
        readme = fill(readme, "lean", lean)
    nbformat.write(notebook, NOTEBOOK)
    README.write_text(readme, "utf-8", newline="\n")
