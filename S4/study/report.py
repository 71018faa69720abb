"""What the runs show: the numbers and figures; report.md.jinja has words and tables."""

import contextlib
import json
from pathlib import Path

import jinja2
import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ..notebook_file import NOTEBOOK, facts_table, fill, read_notebook, tagged
from .compare import compare
from .variants import VARIANTS, identity

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
SMALLEST = "lean, 3,420, bent, SiLU"  # that README says to reach the target
LEAST = "lean, 2,028, shared, SiLU"  # that README tells of beside it
SEARCHED_BEST = "drawn, hard pictures"  # the best of the search, trained in less time
VIEWED = {"recipe": "the notebook's", SEARCHED_BEST: "the search's, in less time"}
VIEWED |= {LEAST: "the smallest"}  # what README calls those judged by five views
TARGET = 99.40
EARLY = "How to tell early that it goes badly"
EPOCHS = 19  # of the runs that are compared
REFERENCE = "before simplifying"  # what the variants change
OURS = "our recipe, narrower and wider"
DESIGNS = {"recipe": OURS, "size": OURS}  # by group, as the figure of sizes names them
DESIGNS |= {"lean": "made for few parameters", "far": "made for accuracy alone"}
DESIGNS |= {"drawn": VIEWED[SEARCHED_BEST]}
BROKEN = 99.0  # percent in the end; what ends below has gone badly
WARNING = 5, 95.0  # a rule of thumb: after so many epochs, less than so many percent
CHOSE_WARNING = range(101, 105)  # the seeds whose runs it was made from
CHOSE_RATES = 19, 20, 117, 118  # the seeds that chose among learning rates
CHOSE = {"SiLU": range(5, 8)}  # the seeds that spoke for variants
CHOSE |= dict.fromkeys(["hard pictures", SEARCHED_BEST], range(7, 11))
WIDE_SEED = 121  # of the first trial of each network of the search from wide ranges
WIDE_DEVICE = "NVIDIA H200"  # of that search, but for two test seeds
WIDE_CHOICES = {  # what was drawn there, and what the report calls some of it
    "layer": {"conv": "3×3 convolutions", "sep3": "separable convolutions"},
    "repeat": {
        "plain": "one layer after the other",
        "residual": "residual sums",
        "shared": "residual sums, weights shared",
    },
    "act": {"ReLU": "ReLU", "SiLU": "SiLU"},
    "pool": {"max": "MaxPool", "blurred": "blurred pooling"},
    "head": {
        "average": "average in the head",
        "average and maximum": "average and maximum in the head",
    },
    "gate": {False: "no gate", True: "gate"},
    "bend": {False: "not bent", True: "bent"},
    "whole": {False: "the middle 24×24 at first", True: "whole pictures always"},
    "batch_size": {},
    "dropout": {},
    "average": {n: f"weights averaged over {n:g}" for n in (0.5, 1, 2, 4)},
}


def load(runs, identities):
    """Return `runs`, but for trials, as a data frame.

    `variant` is by present identity, `group` its part of the report; both are None for
    a run of another recipe. `broken` is a finished run that has gone badly.
    """
    names = {identity: name for name, identity in reversed(identities.items())}
    whole = (run for run in runs if run["train_limit"] is None)
    rows = [run | {"trained_as": run["variant"]} for run in whole]
    for row in rows:
        row["variant"] = names.get(row["identity"])  # None: of another recipe
        row["accuracies"] = row["history"]["eval_accuracy"]
        row["misread"] = row.get("misread")  # earlier runs do not tell
        views = row.get("five_views") or [None, None]  # nor that
        row["views_loss"], row["views_accuracy"] = views
        row["accuracy"] = None if row["failed"] else row["accuracies"][-1]
        row["loss"] = None if row["failed"] else row["history"]["eval_loss"][-1]
    numbers = ["accuracy", "loss", "views_accuracy", "views_loss"]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))
    groups = {name: variant.group for name, variant in VARIANTS.items()}
    broken = frame["accuracy"] < BROKEN
    return frame.assign(group=frame["variant"].map(groups), broken=broken)


def full_test_runs(frame, variant="recipe"):
    """Return the runs of a variant on the test set, the longest schedule's only."""
    runs = frame[(frame["variant"] == variant) & (frame["split"] == "test")]
    return runs[runs["epochs"] == runs["epochs"].max()]


def decision_runs(frame, *others):
    """Return the runs on the validation split, of full length.

    They are those of the reference, of the ablations, and of `others`; runs that chose
    an ablation's rate are left out, because choosing favours them.
    """
    is_one = (frame["group"] == "ablation") & ~is_look(frame)
    is_one |= frame["variant"].isin([REFERENCE, *others])
    is_full = (frame["epochs"] == EPOCHS) & (frame["split"] == "validation")
    return frame[is_one & is_full]


def present_runs(frame):
    """Return the runs of the recipe, and of changes to it as it is, of full length.

    On the validation split, seeds that spoke for a change are left out of its runs.
    """
    is_one = frame["group"].isin(["recipe", "present"]) & (frame["epochs"] == EPOCHS)
    for name, seeds in CHOSE.items():
        chose = (frame["variant"] == name) & frame["seed"].isin(seeds)
        is_one &= ~(chose & (frame["split"] == "validation"))
    return frame[is_one]


def is_look(frame):
    """Return which runs chose among learning rates, as a series of booleans."""
    kinds = {n.rpartition(" ")[0] for n, v in VARIANTS.items() if v.group == "rate"}
    is_rated = frame["variant"].str.rpartition(" ")[0].isin(kinds)
    is_full = (frame["epochs"] == EPOCHS) & (frame["split"] == "validation")
    return is_rated & is_full & frame["seed"].isin(CHOSE_RATES)


def rate_runs(frame):
    """Return the losses of the runs that chose learning rates, variants × seeds."""
    looks = frame[is_look(frame)]
    order = [name for name in VARIANTS if name in set(looks["variant"])]
    return looks.pivot(index="variant", columns="seed", values="loss").reindex(order)


def holds_from(accuracies):
    """Return the first epoch from which all `accuracies` reach the target, or None."""
    below = [epoch for epoch, value in enumerate(accuracies, 1) if value < TARGET]
    first = max(below, default=0) + 1
    return first if first <= len(accuracies) else None


def signed(number, digits=2):
    """Return a difference as text: "+0.05", "−0.05", "0.00"; "–" if there is none."""
    if np.isnan(number):
        return "–"
    text = f"{number:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def shift_words(runs, variant, reference, split="validation"):
    """Return how a variant differs from another, in words; nothing without a pair."""
    shifts = compare(runs, reference)
    if variant not in shifts.index:
        return ""
    row = shifts.loc[variant]
    shift, low, high = (signed(row[f"loss{end}"], 4) for end in ("", "_low", "_high"))
    return (
        f"In {row['pairs']:.0f} pairs, the {split} loss differed by {shift} (95 % "
        f"interval {low} to {high}), the accuracy by {signed(row['accuracy'], 3)} "
        "points."
    )


def choices(frame):
    """Return what the recipe's last choices are worth, in words, as a dict.

    They were made one after the other, so each is compared with what was before it.
    """
    savings = shift_words(decision_runs(frame, "before"), REFERENCE, "before")
    simplified = shift_words(decision_runs(frame, "recipe"), "recipe", REFERENCE)
    runs = present_runs(frame).query("split == 'validation'")
    found = {"savings": savings, "simplified": simplified}
    found["SiLU"] = shift_words(runs, "SiLU", "recipe")
    found["average"] = shift_words(runs, "no averaging, constant rate", "recipe")
    return found


def early_correlation(runs, epoch):
    """Return Spearman's correlation of the accuracies after `epoch` and the last."""
    finished = runs.dropna(subset="accuracy")
    early = [accuracies[epoch - 1] for accuracies in finished["accuracies"]]
    return stats.spearmanr(early, finished["accuracy"]).statistic


def gpu_words(runs):
    """Return how long the notebook, and its recipe in the study, took on a GPU."""
    record = json.loads((HERE / "gpu.json").read_text("utf-8"))
    alone = record["alone"]
    is_there = (runs["device"] == alone["device"]) & (runs["variant"] == REFERENCE)
    beside = runs.loc[is_there, "seconds"]
    return (
        f"An {alone['device']} (torch {alone['torch']}) took {alone['seconds']:.0f} s "
        f"for seed {alone['seed']}, which ended at "
        f"{alone['rows'][-1]['eval_accuracy']:.2f} % on the test set. In the study, "
        f"before the recipe was simplified, with {record['at_once']} runs there at a "
        f"time and 50,000 images to train on, one took {beside.median():.0f} s "
        "(median)."
    )


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
        "stay above it from epoch": since or f"{never} runs never do",
    }


def view_runs(runs):
    """Return, for each variant and split, the runs that were judged by five views.

    Columns: `size`; `mean`, `std` and `min` of the accuracy by five views, `good` the
    number of those at the target; `one` and `one_min` by one view; `loss`, and
    `views_loss`, by one and by five.
    """
    rows = runs[runs["epochs"] == EPOCHS].dropna(subset="views_accuracy")
    rows = rows.assign(is_good=rows["views_accuracy"] >= TARGET)
    groups = rows.groupby(["split", "variant", "parameters"])
    found = groups["views_accuracy"].agg(["size", "mean", "std", "min"])
    found["one"], found["one_min"] = groups["accuracy"].mean(), groups["accuracy"].min()
    found["good"] = groups["is_good"].sum()
    for key in ("loss", "views_loss"):
        found[key] = groups[key].mean()
    return found.reset_index().sort_values("mean", ascending=False)


def views_table(runs):
    """Return the table of what five views of the test images are worth."""
    head = "Network", "Parameters", "Seeds", "One view: mean, lowest"
    head = *head, "Five: mean, lowest", "at or above 99.40 %"
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    rows = view_runs(runs).query("split == 'test' and variant in @VIEWED")
    for row in rows.itertuples():
        one = f"{row.one:.3f}, {row.one_min:.2f} %"
        five = f"{row.mean:.3f}, {row.min:.2f} %"
        good = f"{row.good} of {row.size}"
        counts = f"{row.parameters:,}", f"{row.size}"
        cells = VIEWED[row.variant], *counts, one, five, good
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hard_images(runs):
    """Return how many images any, most and all of the runs misread, in words."""
    told = runs["misread"].dropna()
    if not len(told):
        return ""
    counts = told.explode().value_counts()
    most, always = (counts > len(told) / 2).sum(), (counts == len(told)).sum()
    return (
        f"Together these {len(told)} networks misread {len(counts)} images: {most} of "
        f"them by more than half of the networks, {always} by all."
    )


def lean_tables(frame):
    """Return the tables of the networks of few parameters that README tells of."""
    found = {}
    for name, variant, title in (
        ("lean", SMALLEST, "few parameters"),
        ("least", LEAST, "fewer still"),
    ):
        if len(runs := full_test_runs(frame, variant)):
            parameters = {"parameters": f"{runs['parameters'].iloc[0]:,}"}
            found[name] = facts_table(parameters | seed_facts(runs), title)
    return found


def early_warning(runs):
    """Return of broken and of good runs, as a dict of both: all, and those warned of.

    Left out are the runs that the rule of thumb was made from, and those that failed:
    their loss says so itself.
    """
    epoch, least = WARNING
    others = runs[~runs["seed"].isin(CHOSE_WARNING)].dropna(subset="accuracy")
    warned = others["accuracies"].str[epoch - 1] < least
    groups = warned.groupby(others["broken"])
    return {
        name: (groups.size().get(key, 0), groups.sum().get(key, 0))
        for name, key in (("broken", True), ("good", False))
    }


def early_words(runs):
    """Return what the first epochs tell about the last, in words."""
    good = runs[~runs["broken"]]
    first, fifth = (signed(early_correlation(good, epoch)) for epoch in (1, 5))
    counts = [f"{n} of {all_} {k}" for k, (all_, n) in early_warning(runs).items()]
    return (
        f"good runs, rank correlation with the last epoch: {first} (epoch 1), "
        f"{fifth} (5); below {WARNING[1]:g} % after epoch {WARNING[0]}: "
        f"{' and '.join(counts)} runs"
    )


def measured(runs):
    """Return {consideration: what its variants are worth}.

    `runs` are of equal length. Bold, the difference in accuracy, where the loss
    differs, corrected for the number of variants; else the largest difference in
    accuracy that the 95 % interval allows. Where the seeds differ by more than a point,
    the accuracies themselves: a mean would tell of none of them.
    """
    found = {v.consideration: [] for v in VARIANTS.values() if v.consideration}
    shifts = compare(runs, REFERENCE)
    for name, variant in VARIANTS.items():
        last = runs.loc[runs["variant"] == name, "accuracy"]
        if failed := last.isna().sum():
            words = f"{name}: {failed} of {len(last)} failed"
        elif last.max() - last.min() > 1:
            words = f"{name}: {', '.join(f'{x:.2f}' for x in sorted(last))} %"
        elif name in shifts.index:
            row = shifts.loc[name]
            most = max(-row["accuracy_low"], row["accuracy_high"])
            is_sure = row["loss_p"] < 0.05
            words = f"**{signed(row['accuracy'])}**" if is_sure else f"±{most:.2f}"
            words = f"{name} {words}"
        else:
            continue
        if variant.consideration:
            found[variant.consideration].append(words)
    found[EARLY] = [early_words(runs)]
    return {name: "; ".join(parts) or "–" for name, parts in found.items()}


def summary(runs, keys):
    """Return a row for each group of runs that agree in `keys`, the best first."""
    groups = runs.groupby(keys, sort=False, dropna=False)
    rows = groups["accuracy"].agg(["size", "count", "mean", "std", "min"])
    for column in {"seconds", "loss"} & set(runs):
        rows[column] = groups[column].mean()
    return rows.reset_index().sort_values("mean", ascending=False, kind="stable")


def wide_search(search):
    """Return the networks of the search from wide ranges, as a data frame.

    A row for each network, split and number of views: means over its `size` seeds.
    """
    keys = ["split", "network", "change", "is_drawn", "views", "parameters"]
    numbers = ["loss", "averaged", "views_loss", "views_accuracy", "seconds"]
    groups = search[search["round"] == 4].groupby(keys)
    return groups[numbers].mean().assign(size=groups.size()).reset_index()


def wide_draws(search):
    """Return what the networks with one view lose, by what was drawn, as a data frame.

    Of the first trials of those up to 20,000 parameters: `name`, `draws`, and the
    quartiles of the loss, `low`, `median` and `high`.
    """
    rows = search[(search["round"] == 4) & search["is_drawn"].eq(True)]
    rows = rows.query("views == 3 and split == 'validation' and seed == @WIDE_SEED")
    drawn, found = pd.DataFrame(rows["values"].tolist()), []
    drawn = drawn.assign(bend=drawn["bend"] > 0, loss=rows["loss"].values)
    for choice, names in WIDE_CHOICES.items():
        for value, part in drawn.groupby(choice):
            name = names.get(value, f"{choice.replace('_', ' ')} {value}")
            quartiles = part["loss"].quantile([0.25, 0.5, 0.75])
            found.append((name, len(part), *quartiles))
    return pd.DataFrame(found, columns=["name", "draws", "low", "median", "high"])


def wide_tested(search, is_drawn=True):
    """Return the search's runs on the test images, one a seed.

    They are those of the best drawn network or, not `is_drawn`, of the recipe.
    """
    rows = search[(search["round"] == 4) & (search["split"] == "test")]
    return rows[rows["is_drawn"].eq(is_drawn)]


def wide_test_words(search):
    """Return how good the search's two networks are on the test images, in words."""
    found = []
    for is_drawn in (True, False):
        rows = wide_tested(search, is_drawn)
        one, three = rows["averaged"], rows["views_accuracy"]
        found += [f"{one.mean():.3f} % by one view (the lowest {one.min():.2f} %)"]
        found += [f"{three.mean():.3f} % by three ({three.min():.2f} %)"]
    return (
        f"{len(wide_tested(search))} seeds end on the test set at a mean of "
        f"{found[0]}, {found[1]}; those of the recipe, trained beside it on another "
        f"machine than the notebook's, at {found[2]}, {found[3]}."
    )


def wide_seconds(search):
    """Return the mean seconds of a run of the drawn network, and of the recipe.

    Both are of those that the search's card trained, with as many side by side.
    """
    groups = (wide_tested(search, is_drawn) for is_drawn in (True, False))
    return [
        rows.loc[rows["device"] == WIDE_DEVICE, "seconds"].mean() for rows in groups
    ]


def wide_words(search):
    """Return how the best drawn network differs from the recipe, in words.

    It is the one that was judged on the test set. The first seed chose it: it is left
    out, and so are seeds that were not trained on the card that trained all others.
    """
    rows = search[(search["round"] == 4) & (search["seed"] != WIDE_SEED)]
    rows = rows[rows["device"] == WIDE_DEVICE]
    kinds = rows["network"] + rows["change"]
    best = kinds[wide_tested(rows).index[0]]
    names = {best: "drawn", "as the recipe": "recipe"}
    rows = rows.assign(variant=kinds.map(names), accuracy=rows["averaged"])
    groups = rows.groupby("split", sort=False)
    found = {split: shift_words(of, "drawn", "recipe", split) for split, of in groups}
    return f"{found['validation']} {found['test']}"


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


def draw_figures(runs, sizes, viewed, whole, published, records, folder):
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
        groups = sizes["group"].mask(sizes["variant"] == SEARCHED_BEST, "drawn")
        sizes = sizes.sort_values("parameters").assign(key=groups.map(DESIGNS))
        for key, rows in sizes.groupby("key", sort=False):
            points = rows["parameters"], rows["mean"], rows["std"].fillna(0)
            axes.errorbar(*points, marker="o", capsize=3, label=f"{key}: mean ± sd")
        tested = viewed.query("split == 'test' and variant in @VIEWED")
        points = tested["parameters"], tested["mean"], tested["std"].fillna(0)
        label = "judged by five views: mean ± sd"
        style = {"fmt": "s", "capsize": 3, "color": "tab:purple", "zorder": 1}
        axes.errorbar(*points, label=label, **style)
        point = whole["parameters"].iloc[0], whole["views_accuracy"].mean()
        label = "the search's, in its own time, by three views"
        style |= {"fmt": "D", "markersize": 4, "color": "tab:brown", "zorder": 4}
        axes.errorbar(*point, whole["views_accuracy"].std(), label=label, **style)
        points = published["parameters"], published["last_accuracy"]
        axes.plot(*points, "kx", label="published: a single run each")
        points = records["parameters"], records["accuracy"]
        axes.plot(*points, "k*", label="records: the best of many, on the test set")
        ticks = [700, 1500, 2500, 5000, 10000, 20000]
        axes.set(xscale="log", xticks=ticks, xticklabels=[f"{n:,}" for n in ticks])
        axes.set(xlabel="parameters (log scale)", ylabel="last-epoch test accuracy, %")
        axes.minorticks_off()


def draw_decisions(shifts, path):
    """Draw every variant's difference in loss and accuracy, sorted, with intervals.

    What would not fit is drawn as an arrow at the edge, its value beside it.
    """
    shifts = shifts.sort_values("loss", ascending=False)
    size = 9, 1.2 + 0.24 * len(shifts)
    axes = Figure(size, facecolor="white", layout="constrained").subplots(1, 2)
    scales = {"loss": (-0.002, 0.009, "loss; worse →", 3)}
    scales["accuracy"] = -0.25, 0.15, "accuracy, points; ← worse", 2
    for axis, (key, scale) in zip(axes, scales.items(), strict=True):
        least, most, label, digits = scale
        for place, row in enumerate(shifts.itertuples()):
            value, is_sure = getattr(row, key), getattr(row, f"{key}_p") < 0.05
            color = {"color": "tab:red" if is_sure else "tab:blue"}
            if least < value < most:
                ends = getattr(row, f"{key}_low"), getattr(row, f"{key}_high")
                axis.plot(ends, [place, place], linewidth=1, **color)
                axis.plot(value, place, "o", markersize=4, **color)
            else:
                edge, side = (least, "left") if value < least else (most, "right")
                axis.plot(edge, place, "<" if side == "left" else ">", **color)
                text = f"   {signed(value, digits)}   "
                axis.text(edge, place, text, ha=side, va="center", fontsize=8, **color)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=f"difference in {label}", xlim=(least, most))
        axis.set_yticks(range(len(shifts)), shifts.index if key == "loss" else [])
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0].figure.savefig(path, dpi=110)


def draw_early(runs, path):
    """Draw the error after epochs 1, 3 and 5 against that of the last one."""
    finished = runs.dropna(subset="accuracy")
    figure = Figure((9, 3.4), facecolor="white", layout="constrained")
    for axis, epoch in zip(figure.subplots(1, 3, sharey=True), (1, 3, 5), strict=True):
        early = 100 - finished["accuracies"].str[epoch - 1]
        for is_broken, color in ((False, "tab:blue"), (True, "tab:red")):
            which = finished["broken"] == is_broken
            label = f"ends below {BROKEN:g} %" if is_broken else "good"
            points = early[which], 100 - finished["accuracy"][which]
            axis.plot(*points, ".", color=color, label=label)
        axis.set(xscale="log", yscale="log", xlabel=f"error after epoch {epoch}, %")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("error after the last epoch, %")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def write_report(frame, folder):
    """Write REPORT.md and its figures into `folder`."""
    runs, recipes = frame.dropna(subset="group"), full_test_runs(frame)
    viewed = view_runs(runs)
    networks = summary(runs, ["variant", "group", "parameters", "epochs", "split"])
    full = networks[networks["epochs"] == recipes["epochs"].max()]
    is_shown = full["group"].isin(DESIGNS) | (full["variant"] == SEARCHED_BEST)
    sizes = full[(full["split"] == "test") & is_shown]
    published = pd.read_csv(HERE / "published.csv")
    records = pd.read_csv(HERE / "records.csv")
    search = pd.read_json(HERE / "search.jsonl", lines=True)
    (folder / "figures").mkdir(exist_ok=True)
    if len(finished := recipes.dropna(subset="accuracy")):
        whole, pictures = wide_tested(search), folder / "figures"
        draw_figures(finished, sizes, viewed, whole, published, records, pictures)
    decisions = decision_runs(frame)
    if len(shifts := compare(decisions, REFERENCE)):
        draw_decisions(shifts, folder / "figures" / "decisions.png")
        draw_early(decisions, folder / "figures" / "early.png")
    shown = {"frame": frame, "runs": runs, "recipes": recipes, "networks": networks}
    shown |= {"full": full, "sizes": sizes, "published": published}
    shown |= {"search": search[search["round"] != 4], "wide": wide_search(search)}
    shown |= {"draws": wide_draws(search), "wide_words": wide_words(search)}
    shown |= {"wide_test_words": wide_test_words(search)}
    shown |= {"wide_seconds": wide_seconds(search)}
    shown |= {"views": pd.read_csv(HERE / "views.csv"), "viewed": viewed}
    shown |= {"present": present_runs(frame), "wide_seed": WIDE_SEED}
    shown |= {"decisions": decisions, "shifts": shifts, "choices": choices(frame)}
    helpers = [
        hard_images,
        summary,
        compare,
        signed,
        early_correlation,
        early_warning,
        seed_facts,
    ]
    shown |= {"variants": VARIANTS, "broken": BROKEN, "reference": REFERENCE}
    shown |= {"warning": WARNING, "records": records, "rates": rate_runs(frame)}
    shown |= {helper.__name__: helper for helper in helpers}
    source = (HERE / "report.md.jinja").read_text("utf-8")
    template = jinja2.Template(source, trim_blocks=True, lstrip_blocks=True)
    (folder / "REPORT.md").write_text(template.render(shown).rstrip() + "\n", "utf-8")


def renew(runs):
    """Write REPORT.md, and renew what notebook and README quote from the runs."""
    identities = {name: identity(v.load()[1]) for name, v in VARIANTS.items()}
    frame = load(runs, identities)
    write_report(frame, HERE)
    seeds = facts_table(seed_facts(full_test_runs(frame)), "many seeds")
    notebook, readme = read_notebook(), README.read_text("utf-8")
    cell = tagged(notebook, "seeds")
    cell.source = fill(cell.source, "seeds", seeds)
    cell = tagged(notebook, "considerations")
    for name, text in measured(decision_runs(frame)).items():
        cell.source = fill(cell.source, name, text)
    for name, words in choices(frame).items():
        cell.source = fill(cell.source, name, words)
    readme = fill(readme, "seeds", seeds)
    readme = fill(readme, "gpu", gpu_words(decision_runs(frame)))
    for name, table in lean_tables(frame).items():
        readme = fill(readme, name, table)
    readme = fill(readme, "views", views_table(frame))
    search = pd.read_json(HERE / "search.jsonl", lines=True)
    readme = fill(readme, "drawn", wide_test_words(search))
    nbformat.write(notebook, NOTEBOOK)
    README.write_text(readme, "utf-8", newline="\n")
