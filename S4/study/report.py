"""What the runs in results.jsonl show: REPORT.md and its figures, from that file alone.

python S4/study/study.py report
"""

import csv
import json
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import mean, median, stdev

import matplotlib.pyplot as plt
from scipy import stats

STUDY = Path(__file__).resolve().parent
PUBLISHED = STUDY / "published.csv"
SEARCH = STUDY / "search.jsonl"
TARGET = 99.40
RECIPE = "recipe"
SEEDS_HEADING = "many seeds"  # of the table that notebook and README quote
LEAN = "lean, 4,784, separable"  # the smallest that README says to reach the target
LEAN_HEADING = "few parameters"
ABLATION_EPOCHS = 6  # of the runs behind the notebook's "Measured" column
# The considerations whose variants the notebook's appendix draws.
DRAWN = [
    "BatchNorm", "BatchNorm's distance from the prediction", "Dropout",
    "Learning rate", "Batch size", "Position of MaxPooling",
    "MaxPooling's distance from the prediction", "MaxPooling",
]  # fmt: skip
EARLY = "How to tell early that it goes badly"
# Which variants tell what a choice in the notebook's table of considerations is worth.
CONSIDERATIONS = {
    "How many layers": ["fewer layers", "more layers"],
    "MaxPooling": ["strided convolutions"],
    "1×1 convolutions": ["fully connected head"],
    "3×3 convolutions": ["5×5 first layer"],
    "Receptive field": ["receptive field cut short"],
    "Learning rate": [
        "learning rate a tenth", "learning rate ten times", "constant learning rate",
    ],
    "Kernels, and how many": ["kernels kept constant"],
    "BatchNorm": ["no BatchNorm"],
    "Image normalisation": ["no normalisation"],
    "Position of MaxPooling": ["MaxPool one layer earlier"],
    "Transition layers": ["1×1 transitions"],
    "Dropout": ["no dropout", "dropout 0.1", "dropout 0.25"],
    "MaxPooling's distance from the prediction": ["MaxPool before the prediction"],
    "BatchNorm's distance from the prediction": [
        "BatchNorm on the logits", "ReLU on the logits",
    ],
    "When to stop convolving": ["large kernel for GAP"],
    "Batch size": [
        "batch size 32", "batch size 32, scaled", "batch size 512",
        "batch size 512, scaled", "batch size 2048", "batch size 2048, scaled",
    ],
    "Augmentation (etc)": ["no augmentation"],
    "Averaged weights (etc)": ["no averaging"],
}  # fmt: skip


def last_accuracies(runs):
    """Return the accuracy after the last epoch, in percent, of each that finished."""
    return [accuracies(run)[-1] for run in runs if not run["failed"]]


def accuracies(run):
    return [epoch["test_accuracy"] for epoch in run["history"]]


def holds_from(run, target=TARGET):
    """Return the first epoch from which the run stays at or above `target`, or None."""
    epoch = None
    if run["failed"]:
        return epoch
    for row in reversed(run["history"]):
        if row["test_accuracy"] < target:
            break
        epoch = row["epoch"]
    return epoch


def select(runs, **wanted):
    """Return the runs that have all of the wanted values, e.g. split="test"."""
    return [run for run in runs if all(run[key] == wanted[key] for key in wanted)]


def by_variant(runs):
    """Return {variant: its runs}, in the order of their first appearance."""
    groups = defaultdict(list)
    for run in runs:
        groups[run["variant"]].append(run)
    return dict(groups)


def mean_and_sd(values):
    """Return the mean and the standard deviation as text, e.g. "99.61 ± 0.02"."""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def lowest(values):
    return f"{min(values):.2f}" if values else "–"


def level(runs):
    """Return mean and standard deviation as text, and how many of the runs failed."""
    values = last_accuracies(runs)
    failed = len(runs) - len(values)
    parts = [mean_and_sd(values)] if values else []
    return ", ".join([*parts, f"{failed} failed"] if failed else parts)


def best_first(runs):
    """Return the runs grouped by variant, the group with the highest mean first."""

    def mean_of_finished(group):
        return mean(last_accuracies(group) or [float("-inf")])

    return sorted(by_variant(runs).items(), key=lambda g: -mean_of_finished(g[1]))


def difference(values, reference):
    """Return mean difference and its 95 % confidence interval (Welch), in points.

    The interval is None if one side has a single value.
    """
    shift = mean(values) - mean(reference)
    if min(len(values), len(reference)) < 2:
        return shift, None
    if stdev(values) == stdev(reference) == 0:
        return shift, (shift, shift)
    with warnings.catch_warnings():  # equal values on one side are no trouble
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(values, reference, equal_var=False)
    interval = test.confidence_interval(0.95)
    return shift, (interval.low, interval.high)


def signed(number):
    """Return a difference as text: "+0.05", "−0.05", or "0.00" without a sign."""
    text = f"{number:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def full_test_runs(all_runs, recipe, variant=RECIPE):
    """Return the runs of a variant on the test set, the longest schedule's only."""
    runs = select(
        all_runs, recipe=recipe, variant=variant, split="test", train_limit=None
    )
    return select(runs, epochs=max((run["epochs"] for run in runs), default=0))


def ablation_runs(all_runs, recipe):
    """Return the short runs of the recipe and its variants on the validation split."""
    return select(
        all_runs, recipe=recipe, split="validation", epochs=ABLATION_EPOCHS,
        train_limit=None,
    )  # fmt: skip


def markdown_table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def recipe_facts(runs):
    """Return the figures of one network's runs on the test set, as a dict."""
    last = last_accuracies(runs)
    held = [holds_from(run) for run in runs]
    reached = sum(accuracy >= TARGET for accuracy in last)
    return {
        "seeds": len(runs),
        "mean": f"{mean(last):.3f} %",
        "standard deviation": f"{stdev(last):.3f}" if len(last) > 1 else "–",
        "lowest": f"{min(last):.2f} %",
        "highest": f"{max(last):.2f} %",
        "at or above 99.40 %": f"{reached} of {len(runs)}",
        "stay there from epoch": (
            f"{median(held):.0f} (median), {max(held):.0f} (latest)"
            if None not in held
            else f"{held.count(None)} runs never do"
        ),
    }


def lean_facts(runs):
    """Return the figures of the smallest network's runs, as a dict."""
    return {"parameters": f"{runs[0]['parameters']:,}", **recipe_facts(runs)}


def figure(width=8.0, height=4.0):
    """Return a figure and its axes, on white, so that it can be read on a dark page."""
    new, axes = plt.subplots(figsize=(width, height), facecolor="white")
    axes.grid(alpha=0.3)
    return new, axes


def draw_histogram(runs, path):
    """Draw how many seeds end at which accuracy."""
    new, axes = figure(height=3.2)
    last = last_accuracies(runs)
    low, high = min([TARGET, *last]), max(last)
    edges = [low - 0.005 + 0.01 * i for i in range(round((high - low) / 0.01) + 2)]
    axes.hist(last, edges, color="tab:blue", edgecolor="white")
    axes.axvline(
        TARGET, color="tab:red", linestyle="--", label="the exercise's 99.40 %"
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="test accuracy after the last epoch, %", ylabel="seeds")
    axes.legend()
    save(new, path)


def draw_epochs(runs, path):
    """Draw the mean accuracy of each epoch, and between which bounds all seeds lie."""
    new, axes = figure()
    columns = list(zip(*(accuracies(run) for run in runs), strict=True))
    epochs = range(1, len(columns) + 1)
    low, high = [min(c) for c in columns], [max(c) for c in columns]
    axes.fill_between(epochs, low, high, alpha=0.25, label="lowest to highest seed")
    axes.plot(epochs, [mean(c) for c in columns], marker="o", label="mean")
    axes.axhline(
        TARGET, color="tab:red", linestyle="--", label="the exercise's 99.40 %"
    )
    axes.set(xlabel="epoch", ylabel="test accuracy, %", xticks=epochs)
    axes.set_ylim(max(min(low), 97.0), max(high) + 0.1)
    axes.legend(loc="lower right")
    save(new, path)


def read_published():
    """Return the published solutions, a dict of strings each."""
    return list(csv.DictReader(PUBLISHED.open(encoding="utf-8")))


def draw_parameters(series, path):
    """Draw accuracy against parameters: ours with standard deviation, others' points.

    `series` is {label: list of (parameters, accuracies over the seeds)}.
    """
    new, axes = figure(height=4.6)
    for label, points in series.items():
        points = sorted(points)
        axes.errorbar(
            [parameters for parameters, _ in points],
            [mean(values) for _, values in points],
            [stdev(values) if len(values) > 1 else 0 for _, values in points],
            marker="o", capsize=3, label=f"{label}: mean ± sd",
        )  # fmt: skip
    published = read_published()
    axes.scatter(
        [int(row["parameters"]) for row in published],
        [float(row["last_accuracy"]) for row in published],
        marker="x", color="dimgray", label="published: a single run each",
    )  # fmt: skip
    axes.axhline(
        TARGET, color="tab:red", linestyle="--", label="the exercise's 99.40 %"
    )
    ticks = [1500, 2500, 5000, 10000, 20000]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="parameters (log scale)", ylabel="last-epoch test accuracy, %")
    axes.legend(loc="lower right")
    save(new, path)


def save(new, path):
    new.tight_layout()
    new.savefig(path, dpi=110)
    plt.close(new)


def recipe_section(runs, figures):
    """The recipe, all seeds, on the test set."""
    facts = recipe_facts(runs)
    draw_histogram(runs, figures / "seeds.png")
    draw_epochs(runs, figures / "epochs.png")
    return [
        "The notebook's recipe, on the 60,000 training images, judged on the test set "
        "after the last epoch. The seeds were fixed beforehand; none is left out.",
        markdown_table(["", ""], facts.items()),
        "![How many seeds end at which accuracy](figures/seeds.png)",
        "![Accuracy of each epoch over the seeds](figures/epochs.png)",
    ]


def ablation_rows(runs, reference, descriptions):
    """Return a table row for each variant, the best first; `reference` is the recipe's.

    The differences are in points of accuracy, with a 95 % confidence interval (Welch).
    """
    rows = []
    expected = last_accuracies(reference)
    for name, group in best_first(runs):
        parameters = f"{group[0]['parameters']:,}"
        row = [name, descriptions.get(name, ""), parameters, len(group), level(group)]
        values = last_accuracies(group)
        if name == RECIPE or not values:
            rows.append([*row, "", ""])
            continue
        shift, interval = difference(values, expected)
        bounds = " to ".join(map(signed, interval)) if interval else "–"
        rows.append([*row, signed(shift), bounds])
    return rows


def in_short(name, runs, reference):
    """Return what a variant is worth in a few words; bold if it is more than noise."""
    if not runs:
        return ""
    finished = last_accuracies(runs)
    if failed := len(runs) - len(finished):
        return f"{name}: {failed} of {len(runs)} failed"
    shift, interval = difference(finished, last_accuracies(reference))
    if interval and (interval[0] > 0 or interval[1] < 0):
        return f"{name} **{signed(shift)}**"
    return f"{name} {signed(shift)}"


def with_measurements(markdown, runs):
    """Return `markdown`, the column "Measured" of its considerations filled in.

    `runs` are those of the recipe and its ablations, all of the same length and split.
    """
    groups = by_variant(runs)
    lines = markdown.split("\n")
    for number, line in enumerate(lines):
        cells = line.split(" | ")
        # "| **1. How many layers:** nine convolutions" names the consideration.
        name = line.partition(". ")[2].partition(":**")[0]
        if name in CONSIDERATIONS and RECIPE in groups:
            parts = [
                in_short(variant, groups.get(variant, []), groups[RECIPE])
                for variant in CONSIDERATIONS[name]
            ]
            cells[1] = "; ".join(filter(None, parts)) or cells[1]
        elif name == EARLY and len(groups) > 1:
            first, third = (early_correlation(runs, epoch) for epoch in (1, 3))
            cells[1] = (
                f"rank correlation with the last epoch: {first:.2f} after epoch 1, "
                f"{third:.2f} after 3"
            )
        else:
            continue
        lines[number] = " | ".join(cells)
    return "\n".join(lines)


def study_cell(runs):
    """Return the source of the notebook's cell with the curves that its appendix draws.

    `runs` are those that `with_measurements` takes. A variant with a failed run has no
    curve.
    """
    drawn = {RECIPE}.union(*(CONSIDERATIONS[name] for name in DRAWN))
    lines = []
    for name, group in by_variant(runs).items():
        if name in drawn and len(group) > 1 and not any(r["failed"] for r in group):
            columns = zip(*map(accuracies, group), strict=True)
            means = "".join(f"{mean(column):.2f}, " for column in columns)
            deviation = stdev(last_accuracies(group))
            lines.append(f'    "{name}": ({means}{deviation:.2f}),')
    return "\n".join(["STUDY = {", *lines, "}  # fmt: skip"])


def early_correlation(runs, epoch):
    """Return Spearman's rank correlation of the accuracy after `epoch` with the last.

    Runs that failed have no last accuracy and are left out.
    """
    finished = [run for run in runs if not run["failed"]]
    early = [accuracies(run)[epoch - 1] for run in finished]
    last = last_accuracies(finished)
    return stats.spearmanr(early, last).statistic


def ablation_section(runs, descriptions):
    """Every decision left out or replaced, on the validation split."""
    text = [
        "Trained on the first 50,000 training images, judged on the other 10,000 after "
        "the last epoch. An interval that contains 0 means: these seeds cannot tell "
        "the variant from the recipe. Of twenty intervals, about one leaves out 0 by "
        "chance alone. A schedule of 6 epochs favours what learns fast over what "
        "needs time."
    ]
    for epochs in sorted({run["epochs"] for run in runs}):
        group = select(runs, epochs=epochs)
        reference = select(group, variant=RECIPE)
        if len(by_variant(group)) < 2 or not reference:
            continue
        head = ["Variant", "What is changed", "Parameters", "Seeds"]
        head += ["Accuracy, %", "Difference", "95 % interval"]
        text += [
            f"### {epochs} epochs",
            markdown_table(head, ablation_rows(group, reference, descriptions)),
        ]
    return text


def epochs_section(runs):
    """The recipe with shorter and longer schedules, on the validation split."""
    rows = []
    for epochs in sorted({run["epochs"] for run in runs}):
        group = select(runs, epochs=epochs)
        rows.append([epochs, len(group), level(group)])
    return [
        "Each with a schedule of its own length, on the validation split.",
        markdown_table(["Epochs", "Seeds", "Accuracy, %"], rows),
    ]


def early_section(runs):
    """Rank correlation (Spearman) between early epochs and the last, over all runs."""
    rows = []
    for epochs in sorted({run["epochs"] for run in runs}):
        group = [run for run in select(runs, epochs=epochs) if not run["failed"]]
        if len(group) < 5:
            continue
        for epoch in (1, 2, 3, 5):
            if epoch < epochs:
                correlation = f"{early_correlation(group, epoch):.2f}"
                rows.append([epochs, len(group), epoch, correlation])
    head = [
        "Epochs of the run",
        "Runs",
        "After epoch",
        "Rank correlation with the last",
    ]
    return [
        "Over all variants and seeds on the validation split: 1 would mean that the "
        "order after that epoch is already the final order, 0 that it says nothing.",
        markdown_table(head, rows),
    ]


def parameters_section(runs, lean, figures):
    """The same design at several widths, and the lean networks, on the test set."""
    series = {"our recipe, narrower and wider": runs, "made for few parameters": lean}
    points, rows = {}, []
    for label, group in series.items():
        for name, group_runs in by_variant(group).items():
            values = last_accuracies(group_runs)
            parameters = group_runs[0]["parameters"]
            row = [name, len(group_runs), level(group_runs), lowest(values)]
            rows.append([parameters, *row])
            if values:
                points.setdefault(label, []).append((parameters, values))
    draw_parameters(points, figures / "parameters.png")
    table = [[f"{parameters:,}", *row] for parameters, *row in sorted(rows)]
    head = ["Parameters", "Variant", "Seeds", "Accuracy, %", "Lowest"]
    published = read_published()
    too_long = sum(int(row["epochs"]) >= 20 for row in published)
    return [
        "Test set, last epoch. The crosses are other people's published solutions, "
        f"each a single run; {too_long} of the {len(published)} took 20 epochs or "
        "more.",
        markdown_table(head, table),
        "![Accuracy against parameters](figures/parameters.png)",
    ]


def lean_section(runs, descriptions):
    """The search for the smallest network, on both splits, the best first."""
    text = [
        "How few parameters reach 99.40 %, as a mean over ten seeds? The goal was at "
        "most 5,000, and beyond that at most 3,500. A network this small underfits, so "
        "it is trained with smaller batches and milder augmentation, without weight "
        "decay and dropout. In a separable layer, a 3×3 convolution of each channel by "
        "itself comes before a 1×1 convolution that mixes the channels, with BatchNorm "
        "and ReLU between them or (*one ReLU*) only behind both. Candidates are "
        "compared on the validation split (50,000 images to train on, which costs them "
        "some hundredths); only what is chosen there, the smaller one of two that tie, "
        "is judged on the test set."
    ]
    if not select(runs, split="test"):
        text.append("None has been judged on the test set yet.")
    head = ["Variant", "Channels and changes", "Parameters", "Seeds"]
    for split in ("validation", "test"):
        rows = []
        for name, group in best_first(select(runs, split=split)):
            parameters = f"{group[0]['parameters']:,}"
            row = [name, descriptions[name], parameters, len(group), level(group)]
            rows.append([*row, lowest(last_accuracies(group))])
        if rows:
            columns = [*head, f"Accuracy on the {split} images, %", "Lowest"]
            text.append(markdown_table(columns, rows))
    return text


def starting_section(runs):
    """The lesson's starting network after its one epoch, beside the recipe's last."""
    rows = []
    for name, group in by_variant(runs).items():
        seconds = f"{mean(run['seconds'] for run in group):.0f}"
        parameters, epochs = f"{group[0]['parameters']:,}", group[0]["epochs"]
        rows.append([name, parameters, epochs, len(group), level(group), seconds])
    head = ["Network", "Parameters", "Epochs", "Seeds", "Test accuracy, %"]
    return [
        "The network that the lesson starts from, trained as the lesson trains it, on "
        "the test set. Seconds are those of one run while another ran beside it.",
        markdown_table([*head, "Seconds, all epochs"], rows),
    ]


def search_section(older, path=SEARCH):
    """Everything that was tried before the recipe was settled, the best first.

    `older` are the runs of earlier recipes.
    """
    groups = defaultdict(list)
    for line in path.read_text("utf-8").splitlines():
        run = json.loads(line)
        key = run["round"], run["network"], run["change"] or "–", run["parameters"]
        groups[key].append(run)
    rows = []
    for (round_, network, change, parameters), runs in groups.items():
        values = [run["averaged"] or run["accuracy"] for run in runs]
        row = [round_, network, change, f"{parameters:,}", len(runs)]
        rows.append((mean(values), [*row, mean_and_sd(values)]))
    rows.sort(key=lambda row: row[0], reverse=True)
    head = ["Round", "Channels", "Change", "Parameters", "Seeds", "Accuracy, %"]
    return [
        "Every run on the validation split that led to the recipe, from "
        "`search.jsonl`. The first round judged the weights of the last step, with "
        "every convolution padded and dropout after each block; its changes are those "
        "to a starting point with peak learning rate 0.1 and milder augmentation. The "
        "second judged the running average; its changes are those to the recipe. "
        "Beyond the exercise, a mean of 99.66 % on the test set was aimed at; nothing "
        "in this table promises it.",
        markdown_table(head, [row for _, row in rows]),
        *older_section(older),
    ]


def older_section(runs):
    """The runs of earlier recipes, which `results.jsonl` keeps."""
    rows = []
    groups = defaultdict(list)
    for run in runs:
        keys = "recipe", "variant", "split", "epochs", "parameters"
        groups[tuple(run[key] for key in keys)].append(run)
    for (recipe, variant, split, epochs, parameters), group in groups.items():
        row = [recipe, variant, split, epochs, f"{parameters:,}", len(group)]
        rows.append([*row, level(group)])
    head = ["Recipe", "Variant", "Split", "Epochs", "Parameters", "Seeds"]
    return [
        "Runs of other recipes that were tried, from `results.jsonl`: bbbd66b1 had the "
        "average before the 1×1 convolution, and dropout between them.",
        markdown_table([*head, "Accuracy, %"], rows),
    ]


def in_words(runs, all_runs, recipe):
    """Return where the runs were made, and how many are not used, as sentences."""
    devices = sorted({f"{run['device']}, torch {run['torch']}" for run in runs})
    failed = sum(bool(run["failed"]) for run in runs)
    older = sum(run["recipe"] != recipe for run in all_runs)
    return (
        f"{len(runs)} runs of the notebook's present recipe and its variants, {failed} "
        f"of them failed, made on: {'; '.join(devices) or 'no machine yet'}. {older} "
        "runs of other recipes are listed at the end."
    )


def write_report(all_runs, recipe, variants, folder=STUDY):
    """Write REPORT.md and its figures into `folder`.

    `all_runs` are the lines of results.jsonl; only those of `recipe` (the identity of
    the notebook's present one) are used. `variants` is {name: Variant}.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    descriptions = {name: variant.description for name, variant in variants.items()}
    in_group = {name: variant.group for name, variant in variants.items()}
    ours = select(all_runs, recipe=recipe, train_limit=None)
    runs = [run for run in ours if run["variant"] in in_group]
    test, validation = select(runs, split="test"), select(runs, split="validation")

    def of(runs, *groups):
        return [run for run in runs if in_group[run["variant"]] in groups]

    recipes = full_test_runs(runs, recipe)
    full = select(runs, epochs=recipes[0]["epochs"] if recipes else None)
    full_test = select(full, split="test")
    sections = {
        "How sure are we?": (recipe_section, [recipes, figures]),
        "What each decision is worth": (
            ablation_section, [of(validation, RECIPE, "ablation"), descriptions],
        ),
        "How long to train": (epochs_section, [of(validation, RECIPE)]),
        "How early can one tell?": (
            early_section, [of(validation, RECIPE, "ablation")],
        ),
        "Accuracy against parameters": (
            parameters_section,
            [recipes + of(full_test, "size"), of(full_test, "lean"), figures],
        ),
        "How small can it be?": (
            lean_section, [of(full, "lean"), descriptions],
        ),
        "The starting network": (starting_section, [of(test, "start") + recipes]),
    }  # fmt: skip
    text = ["# What was measured", in_words(runs, all_runs, recipe)]
    for title, (section, arguments) in sections.items():
        text += [f"## {title}"]
        text += section(*arguments) if arguments[0] else ["Not measured yet."]
    older = [run for run in all_runs if run["recipe"] != recipe]
    text += ["## How the recipe was found", *search_section(older)]
    (folder / "REPORT.md").write_text("\n\n".join(text) + "\n", "utf-8")
