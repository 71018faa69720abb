"""How variants differ from a reference, pair by pair: runs with the same seed.

The loss comes first: it sees far smaller differences than the accuracy does.
"""

import warnings

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests


def interval_and_p(differences):
    """Return the ends of the 95 % interval of the mean, and Student's p, of pairs."""
    if len(differences) < 2:
        return np.nan, np.nan, np.nan
    with warnings.catch_warnings():  # equal differences are no trouble
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_1samp(differences, 0)
    return *test.confidence_interval(0.95), test.pvalue


def compare(runs, reference):
    """Return how each variant differs from `reference`, as a data frame by variant.

    `runs` are equally long and judged on the same images; a pair is a seed that both
    finished; a variant without one is left out. Columns: `pairs`; `loss` and
    `accuracy`, the mean differences; `…_low` and `…_high`, their 95 % intervals; `…_p`,
    the p-values of paired t-tests, corrected for the number of variants by Holm's
    method. What takes two pairs is NaN without them.
    """
    finished, columns = runs.dropna(subset=["variant", "accuracy"]), {}
    for key in ("loss", "accuracy"):
        values = finished.pivot(index="seed", columns="variant", values=key)
        if reference not in values:
            values[reference] = np.nan
        shifts = values.sub(values[reference], axis=0).drop(columns=reference)
        rows = [interval_and_p(shifts[name].dropna()) for name in shifts]
        found = np.array(rows, dtype=float).reshape(-1, 3)
        if (tested := np.isfinite(found[:, 2])).any():
            found[tested, 2] = multipletests(found[tested, 2], method="holm")[1]
        columns[key], columns["pairs"] = shifts.mean(), shifts.count()
        for name, column in zip(("low", "high", "p"), found.T, strict=True):
            columns[f"{key}_{name}"] = pd.Series(column, shifts.columns)
    return pd.DataFrame(columns).query("pairs > 0")
