"""The report says what the runs say, and notebook and README quote it."""

import json
import re
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from S4.notebook_file import NOTEBOOK, facts_table, fill, tagged
from S4.study import report
from S4.study.compare import compare
from S4.study.runs import read_runs
from S4.study.variants import FIVE_VIEWS, VARIANTS, identity

STUDY = NOTEBOOK.with_name("study")
NAMES = {name: name for name in VARIANTS}  # identities for runs that are made up


@pytest.fixture(scope="module")
def frame():
    """The committed runs."""
    identities = {name: identity(v.load()[1]) for name, v in VARIANTS.items()}
    return report.load(read_runs(STUDY / "results.jsonl"), identities)


def runs_of(variant, *ends, split="validation", epochs=19, **changes):
    """A run for each of `ends`, its last accuracy; None is a run that failed."""
    plain = {"identity": variant, "variant": variant, "split": split, "epochs": epochs}
    plain |= {"train_limit": None, "parameters": 100, "seconds": 1.0}
    plain |= {"device": "CPU", "torch": "2", **changes}
    runs = []
    for seed, end in enumerate(ends, 1):
        accuracies = [98 + seed / 10, 99.3 + seed / 100, 99.4, 99, 99.4]
        accuracies = [a for a in (*accuracies, end) if a]
        losses = [1 - accuracy / 100 for accuracy in accuracies]
        history = {"eval_accuracy": accuracies, "eval_loss": losses}
        failed = None if end else "nan"
        runs.append({**plain, "seed": seed, "history": history, "failed": failed})
    return runs


def written(runs, folder):
    report.write_report(report.load(runs, NAMES), folder)
    return (folder / "REPORT.md").read_text("utf-8")


BASE = runs_of(report.REFERENCE, 99.51, 99.52, 99.53)
TESTED = runs_of("recipe", 99.5, 99.6, split="test")


def test_no_failed_run_is_hidden(tmp_path):
    test = {"split": "test"}
    runs = BASE + TESTED + runs_of("no dropout", 99.40, 99.41, None)
    runs += runs_of("dropout 0.1", 99.51, 99.52, 99.53)  # as good, to the last digit
    runs += runs_of("no BatchNorm", None, None)
    for name in ("half as wide", "lean, 4,724", "starting network", "shared"):
        runs += runs_of(name, 99.2, None, **test)
    runs += runs_of("half as wide", 9, split="test", epochs=1)  # too short
    runs += runs_of("recipe", 9, train_limit=100, **test)  # a trial
    runs += runs_of("before", 99.5) + runs_of("before", 99.3, 99.5, **test)
    runs += runs_of("recipe", 10, identity="an older one", **test)
    text = written(runs, tmp_path)
    assert "| 100 | 3 | 99.41 ± 0.01, 1 failed | 2 | +0.0011 |" in text
    assert "whole pictures in every epoch: 99.40 ± 0.14 % in 2 seeds" in text
    assert "| no BatchNorm | biases in its place | 100 | 2 | 2 failed |  |" in text
    assert text.count("99.20, 1 failed |") == 6  # the lean and the far one twice
    assert "| at or above 99.40 % | 2 of 2 |" in text
    assert "1 runs of other recipes" in text and "Not measured yet" not in text
    assert "nan" not in text
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5


def test_what_is_not_measured_is_said(tmp_path):
    assert written(TESTED, tmp_path).count("Not measured yet.") == 4


def test_without_a_reference_nothing_is_compared(tmp_path):
    runs = runs_of("no dropout", 99.5) + runs_of("dropout 0.1", 99.4)
    text = written(runs, tmp_path)
    assert "| no dropout | dropout 0.0 | 100 | 1 | 99.50 |  |  |  |  |  |  |" in text
    assert not (tmp_path / "figures" / "decisions.png").exists()


def test_a_run_belongs_to_what_has_its_identity_now():
    """A variant became the recipe: its runs do, and the old recipe's belong to none."""
    was = runs_of("no dropout", 99.5) + runs_of("recipe", 99.4)
    now = report.load(was, {"recipe": "no dropout"})
    assert now["trained_as"].tolist() == ["no dropout", "recipe"]
    assert now["variant"].tolist()[0] == "recipe" and now["variant"].isna()[1]


def test_the_rule_of_thumb_counts_broken_and_good_runs():
    """After epoch 5 these runs read 99.4 %, or what is put there."""
    runs = runs_of("recipe", 99.5, 99.6) + runs_of("no BatchNorm", 98.9, 50.0, None)
    for number, accuracy in ((0, 94.9), (2, 94.9), (3, 95.1)):
        runs[number]["history"]["eval_accuracy"][4] = accuracy
    maker = runs_of("no dropout", 99.5)[0] | {"seed": report.CHOSE_WARNING[0]}
    found = report.early_warning(report.load([*runs, maker], NAMES))
    assert found == {"broken": (2, 1), "good": (2, 1)}


def test_runs_that_chose_a_rate_measure_nothing():
    runs = [
        run | {"seed": seed}
        for name in (
            report.REFERENCE,
            "constant rate 0.05",
            "constant rate 0.1",
            "no dropout",
        )
        for seed in (18, 117)
        for run in runs_of(name, 99.5)
    ]
    frame = report.load(runs, NAMES)
    found = report.decision_runs(frame)[["variant", "seed"]].values.tolist()
    assert found == [
        [report.REFERENCE, 18],
        [report.REFERENCE, 117],
        ["constant rate 0.05", 18],
        ["no dropout", 18],
        ["no dropout", 117],
    ]
    assert report.rate_runs(frame).index.tolist() == [
        "constant rate 0.05",
        "constant rate 0.1",
    ]


def test_what_most_runs_misread_is_counted():
    runs = runs_of("recipe", 99.6, 99.6, 99.6, 99.6, None, split="test")
    wrong = [1, 2, 3], [1, 2], [1, 2, 4], [1], None
    for run, misread in zip(runs, wrong, strict=True):
        run["misread"] = misread
    words = report.hard_images(report.load(runs, NAMES))
    assert "4 networks misread 4 images: 2 of them" in words and "1 by all" in words
    assert report.hard_images(report.load(BASE, NAMES)) == ""


def test_a_failed_seed_is_counted():
    runs = report.load(runs_of("recipe", 99.6, 99.6, None, split="test"), NAMES)
    facts = report.seed_facts(runs)
    assert facts["seeds"] == 3 and facts["at or above 99.40 %"] == "2 of 3"
    assert facts["stay above it from epoch"] == "1 runs never do"
    assert report.holds_from([99.5, 99.3, 99.4, 99.41]) == 3


def test_differences_are_students_paired_by_seed_and_corrected_by_holm():
    """By the formulas: differences 1, 2, 3 have a mean of 2 and a deviation of 1."""
    runs = runs_of("recipe", 90.0, 95.0, 91.0, 99.0) + runs_of("far", 80, 85, 81, 89.1)
    runs += runs_of("near", 91.0, 97.0, 94.0, None) + runs_of("single", 91.0)
    runs += runs_of("failed", None, None)
    names = {run["variant"]: run["variant"] for run in runs}
    found = compare(report.load(runs, names), "recipe")
    near, far = found.loc["near"], found.loc["far"]
    half = stats.t.ppf(0.975, 2) / 3**0.5
    ends = [near[f"accuracy{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([2, 2 - half, 2 + half]) and near["pairs"] == 3
    p = 2 * stats.t.sf(2 * 3**0.5, 2)
    alone = stats.ttest_1samp([-10, -10, -10, -9.9], 0).pvalue
    assert far["accuracy_p"] == pytest.approx(2 * alone)  # the smaller one of two
    assert near[["accuracy_p", "loss_p"]].tolist() == pytest.approx([p, p])
    assert near["loss"] == pytest.approx(-0.02)
    assert found.loc["single", "pairs"] == 1 and np.isnan(found.loc["single", "loss_p"])
    assert list(found.index) == ["far", "near", "single"]


def test_a_measurement_is_bold_if_it_is_more_than_noise():
    runs = BASE + runs_of("no dropout", 99.50, 99.54, 99.58)
    runs += runs_of("dropout 0.1", 99.01, 99.02, 99.031)
    runs += runs_of("no BatchNorm", None, 99) + runs_of("ReLU on the logits", 99, 80)
    found = report.measured(report.load(runs, NAMES))
    assert found["Dropout"] == "no dropout ±0.09; dropout 0.1 **−0.50**"
    assert found["BatchNorm"] == "no BatchNorm: 1 of 2 failed"
    last = found["BatchNorm's distance from the prediction"]
    assert last == "ReLU on the logits: 80.00, 99.00 %"
    assert found["Receptive field"] == "–"  # not what an older recipe had


def test_notebook_and_readme_quote_the_runs(nb, frame, notebook, readme):
    tested = report.full_test_runs(frame)
    seeds = facts_table(report.seed_facts(tested), "many seeds")
    for text in (tagged(notebook, "seeds").source, readme):
        assert fill(text, "seeds", seeds) == text
    # README's first paragraph: "all of twenty seeds".
    assert (tested["accuracy"] >= report.TARGET).sum() == len(tested) == 20
    tables = report.lean_tables(frame)
    assert list(tables) == ["lean", "least"]
    for name, table in tables.items():
        assert fill(readme, name, table) == readme
    assert fill(readme, "views", report.views_table(frame)) == readme
    search = pd.read_json(STUDY / "search.jsonl", lines=True)
    assert fill(readme, "drawn", report.wide_test_words(search)) == readme
    words = report.gpu_words(report.decision_runs(frame))
    assert fill(readme, "gpu", words) == readme
    gpu = json.loads((STUDY / "gpu.json").read_text("utf-8"))
    assert gpu["alone"]["settings"] == nb.settings_of(nb.recipe)
    # README's "whose mean is above 99.40 %".
    smallest = report.full_test_runs(frame, report.SMALLEST)
    assert smallest["accuracy"].mean() > report.TARGET


def test_the_notebook_quotes_every_measurement(nb, frame, notebook):
    runs = report.decision_runs(frame)
    text = tagged(notebook, "considerations").source
    for name, measured in report.measured(runs).items():
        assert fill(text, name, measured) == text
    for name, words in report.choices(frame).items():
        assert words and fill(text, name, words) == text
    both = report.decision_runs(frame, "before")
    assert compare(both, "before").loc[report.REFERENCE, "loss_high"] < 0.0010
    assert nb.epochs == report.EPOCHS


def test_the_committed_report_is_that_of_the_runs(frame, tmp_path):
    report.write_report(frame, tmp_path)
    committed = (STUDY / "REPORT.md").read_text("utf-8")
    assert (tmp_path / "REPORT.md").read_text("utf-8") == committed
    for picture in re.findall(r"\]\((.*?\.png)\)", committed):
        assert (STUDY / picture).is_file()


def test_what_the_text_says_beside_the_measurements(frame, prose):
    text, decisions = " ".join(prose.split()), report.decision_runs(frame)
    jumps = np.diff(list(decisions.query("variant == 'no averaging'")["accuracies"]))
    base = decisions[decisions["variant"] == report.REFERENCE]
    calm = np.diff(list(base["accuracies"]))
    falls = f"{-jumps.min():.2f} points in an epoch (with it, {-calm.min():.2f})"
    assert f"fell by up to {falls}" in text
    shifts = compare(decisions, report.REFERENCE)
    assert shifts["pairs"].min() >= 8 and "eight or more pairs" in text
    assert len(base) >= 16
    both = report.decision_runs(frame, "before")
    assert (both.groupby("seed")["device"].nunique() == 1).all()  # no pair mixes them
    sure = shifts[shifts["loss_p"] < 0.05]
    count = f"Of {len(shifts)} replacements, {len(sure)} differ surely in the loss"
    assert f"{count}, all for the worse" in text and (sure["loss"] > 0).all()
    for name in ("receptive field 16", "MaxPool one layer earlier", "no augmentation"):
        assert name in sure.index
    broken = decisions.query("variant == 'ReLU on the logits'")["broken"]
    assert (len(broken), broken.sum()) == (8, 3)


def test_the_five_views_are_the_best_of_up_to_five():
    sets = pd.read_csv(STUDY / "views.csv").query("views <= 5")
    best = sets.groupby("beside")["loss"].mean().idxmin().replace("−", "-")
    found = [re.findall(r"-?\d+", view) for view in best.split(";")]
    assert {(0, 0, 0), *(tuple(map(int, view)) for view in found)} == {*FIVE_VIEWS}


def test_five_views_are_better_than_one(frame):
    tested = report.view_runs(frame).query("split == 'test' and size >= 10")
    assert (tested["views_loss"] < tested["loss"]).all()
    means = tested.set_index("variant")["mean"]
    assert means["SiLU, bent, searched"] < means["recipe"]  # REPORT.md says so
    # REPORT.md: "By one view of a picture, 3,420 do; by five (above), 2,028."
    reach = tested.loc[tested["mean"] >= report.TARGET, "parameters"]
    assert reach.min() == 2028


def test_the_network_of_the_search_is_as_readme_says(frame):
    """Its loss is lower, its accuracy the same within noise, its training longer."""
    runs = report.present_runs(frame)
    tested = runs[runs["split"] == "test"]
    row = compare(tested, "recipe").loc[report.SEARCHED_BEST]
    assert row["pairs"] == 20 and row["loss"] < 0 and row["loss_p"] < 0.05
    assert row["accuracy_low"] < 0 < row["accuracy_high"]
    medians = runs[runs["split"] == "validation"].groupby("variant")["seconds"].median()
    search = pd.read_json(STUDY / "search.jsonl", lines=True)
    words = report.wide_words(search)  # of the test images, at its end
    assert round(float(re.findall(r"accuracy by \+(\d\.\d+)", words)[-1]), 2) == 0.04
    slow, quick = report.wide_seconds(search)
    assert slow > 2 * quick
    whole = report.wide_tested(search)
    assert sorted(whole["seed"]) == list(range(101, 121))
    assert whole["views_accuracy"].mean() >= 99.66
    assert whole["views_accuracy"].min() >= 99.55
    by_cpu = whole.loc[whole["device"] != report.WIDE_DEVICE, "seed"]
    assert sorted(by_cpu) == [119, 120]  # REPORT.md says so
    assert 1.25 < medians[report.SEARCHED_BEST] / medians["recipe"] < 1.4  # by a third
    assert medians["hard pictures"] / medians["recipe"] == pytest.approx(0.6, abs=0.05)
    judged = compare(runs[runs["split"] == "validation"], "recipe")
    assert (judged.loc[["hard pictures", report.SEARCHED_BEST], "pairs"] >= 8).all()
    alone = judged.loc["hard pictures"]
    assert alone["loss"] > 0 > alone["accuracy"]  # REPORT.md: it costs some


def test_less_augmentation_at_the_end_is_no_better_on_the_test_set(frame):
    runs = report.present_runs(frame).query("split == 'test'").set_index("seed")
    less = runs[runs["variant"] == "less augmentation at the end"]
    same = runs[runs["variant"] == "recipe"].loc[less.index]
    assert sorted(less.index) == list(range(1, 9))  # REPORT.md says so
    for key in ("loss", "views_loss"):
        assert less[key].mean() >= same[key].mean()
    for key in ("accuracy", "views_accuracy"):
        assert less[key].mean() - same[key].mean() < 0.01


def test_the_drawn_network_is_that_of_the_search():
    search = pd.read_json(STUDY / "search.jsonl", lines=True)
    values = search.loc[search["parameters"] == 19_765, "values"].iloc[0]
    variant = VARIANTS[report.SEARCHED_BEST]
    assert variant.parameters == {key: values[key] for key in variant.parameters}
    recipe = variant.load()[1]
    assert recipe["augment"].keywords["amount"] == values["bend"]
    assert sum(weight.numel() for weight in recipe["make_net"]().parameters()) == 19_765


def test_the_simplified_recipe_is_not_worse(frame):
    """By more than 0.0005, in the 16 pairs that the report speaks of."""
    runs = report.decision_runs(frame, "recipe")
    row = compare(runs, report.REFERENCE).loc["recipe"]
    assert row["pairs"] >= 16 and row["loss"] < 0.0005


def test_silu_is_not_surely_better(frame):
    """By the seeds that did not look at it first, which saw a lower loss."""
    runs = report.decision_runs(frame, "recipe", "SiLU")
    runs = runs[runs["variant"].isin(["recipe", "SiLU"])]
    chose = runs["seed"].isin(report.CHOSE["SiLU"])
    first, others = (
        compare(part, "recipe").loc["SiLU"] for part in (runs[chose], runs[~chose])
    )
    assert first["loss"] < -0.001
    assert others["pairs"] >= 13 and others["loss_low"] < 0 < others["loss_high"]


def test_muon_is_not_surely_better_and_the_average_is_needed(frame):
    """The one by eight seeds that had not chosen it; the other at a constant rate."""
    runs = report.present_runs(frame).query("split == 'validation'")
    shifts = compare(runs, "recipe")
    muon, last = (shifts.loc[n] for n in ("Muon", "no averaging, constant rate"))
    assert muon["pairs"] == last["pairs"] == 8
    assert muon["loss_low"] < 0 < muon["loss_high"]
    assert last["loss_low"] > 0 > last["accuracy_high"]


def test_the_rates_are_those_that_were_best(frame):
    rates = report.rate_runs(frame)
    for kind in ("constant rate", "no BatchNorm, He,", "batch 32", "batch 512"):
        seeds = [19, 20] if kind == "batch 32" else [117, 118]
        losses = rates.filter(like=kind, axis=0)[seeds].mean(axis=1, skipna=False)
        assert VARIANTS[losses.idxmin()].group == "ablation"
        assert len(losses) == {"constant rate": 4, "no BatchNorm, He,": 5}.get(kind, 3)


def test_the_reports_figures_come_again_by_other_means():
    """From the raw lines, in plain Python; t is Student's 97.5 % for 7 degrees."""
    losses = {}
    for line in (STUDY / "results.jsonl").read_text("utf-8").splitlines():
        run = json.loads(line)
        is_one = run["epochs"] == 19 and run["split"] == "validation"
        if is_one and run["seed"] in range(101, 109):
            of = losses.setdefault(run["identity"], {})
            of[run["seed"]] = run["history"]["eval_loss"][-1]
    text = (STUDY / "REPORT.md").read_text("utf-8")
    for name in ("no augmentation", "receptive field 16", "MaxPool one layer earlier"):
        base, changed = (
            losses[identity(VARIANTS[n].load()[1])] for n in (report.REFERENCE, name)
        )
        pairs = [loss - base[seed] for seed, loss in changed.items()]
        mean = statistics.fmean(pairs)
        half = 2.364624 * statistics.stdev(pairs) / 8**0.5
        words = f"{mean:+.4f} | {mean - half:+.4f} to {mean + half:+.4f}"
        (row,) = re.findall(rf"^\| {name} \|.*$", text, re.MULTILINE)
        assert f"| 8 | {words} |" in row
