"""Right and wrong calls, and how honest the probabilities are: one metric a function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import UsageError
from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import Bools, Floats, Ints, Patients, chances, same_length, whole_numbers, yes_no
from medmap.metrics.intervals import (
    Bootstrap,
    bounded_estimate,
    bounded_mean_fallback,
    drawn_patients,
    proportion,
    proportion_interval,
)

FEWEST_IN_A_BIN = 5
BINS = 10


def accuracy(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Share of cases whose predicted class is the true one, with Wilson's interval.

    Args:
        truth: (n,) class indices.
        predicted: (n,) class indices.
        patients: (n,) patient of each case; None when each case is another patient.

    Returns:
        The estimate, in [0, 1]; value None with a reason when there is no case.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A class that is no whole number.

    Source: Wilson (1927); clustered: Korn and Graubard (1998), see ``effective_n``.

    Example:
        >>> accuracy([0, 1, 2, 2], [0, 1, 2, 1]).value
        0.75
    """
    true, call = whole_numbers("truth", truth), whole_numbers("predicted", predicted)
    n = same_length(truths=true, predictions=call)
    return proportion("accuracy", true == call, Patients.of(patients, n), "no case")


def balanced_accuracy(
    truth: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Mean over the true classes of the share that was recognised.

    Args:
        truth: (n,) class indices.
        predicted: (n,) class indices.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        The estimate, in [0, 1]; value None with a reason where the truth holds fewer than two classes.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A class that is no whole number.

    Source: Brodersen et al., ICPR (2010). A class missing from a draw keeps its estimate there; where no resampling
    moves the value, the mean of the classes' Wilson intervals is given, which is on the safe side.

    Example:
        >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 1, 1]).value
        0.8333333333333333
    """
    true, call = whole_numbers("truth", truth), whole_numbers("predicted", predicted)
    n = same_length(truths=true, predictions=call)
    return balanced_accuracy_of(true, call, Patients.of(patients, n), (bootstrap or Bootstrap()).affordable(n))


def balanced_accuracy_of(true: Ints, call: Ints, patients: Patients, bootstrap: Bootstrap) -> Estimate:
    """``balanced_accuracy`` of arrays that were checked."""
    classes = np.unique(true)
    if len(classes) < 2:
        return undefined("balanced_accuracy", len(true), "the truth holds fewer than two classes")
    right = np.stack([patients.totals((true == c) & (call == c)) for c in classes], axis=1)
    sizes = np.stack([patients.totals(true == c) for c in classes], axis=1)
    recalls = right.sum(axis=0) / sizes.sum(axis=0)
    sums = bootstrap.sums(np.concatenate([right, sizes], axis=1))
    drawn, known = sums[:, : len(classes)], sums[:, len(classes) :]
    replicates = np.where(known > 0, drawn / np.maximum(known, 1), recalls).mean(axis=1)
    ends = [proportion_interval((call == c)[true == c], patients.at(true == c))[0] for c in classes]
    low, high = np.mean(ends, axis=0)
    fallback = ((float(low), float(high)), "mean of the classes' Wilson intervals")
    return bounded_estimate("balanced_accuracy", float(recalls.mean()), replicates, len(true), bootstrap, fallback)


def _calls(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None) -> tuple[Bools, Bools, Patients]:
    yes, called = yes_no("truth", truth), yes_no("predicted", predicted)
    n = same_length(truths=yes, predictions=called)
    return yes, called, Patients.of(patients, n)


def sensitivity(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Share of the positive cases that were called positive (recall), with Wilson's interval.

    Args:
        truth: (n,) booleans or 0/1.
        predicted: (n,) booleans or 0/1: called positive.
        patients: (n,) patient of each case; None when each case is another patient.

    Returns:
        The estimate, in [0, 1], with n the number of positive cases; None with a reason when there is none.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A value other than 0 and 1.

    Source: Altman and Bland, BMJ 308:1552 (1994); intervals as ``accuracy``.

    Example:
        >>> sensitivity([1, 1, 0, 0], [1, 0, 0, 1]).value
        0.5
    """
    return sensitivity_of(*_calls(truth, predicted, patients))


def specificity(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Share of the negative cases that were called negative, with Wilson's interval.

    Args, returns, raises: as ``sensitivity``; n is the number of negative cases.

    Source: Altman and Bland, BMJ 308:1552 (1994).

    Example:
        >>> specificity([1, 0, 0, 0, 0], [1, 0, 0, 0, 1]).value
        0.75
    """
    return specificity_of(*_calls(truth, predicted, patients))


def ppv(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Share of the cases called positive that are (precision), with Wilson's interval.

    It holds for the prevalence among these cases only; see ``prevalence_adjusted_ppv_npv``.

    Args, returns, raises: as ``sensitivity``; n is the number of cases called positive.

    Source: Altman and Bland, BMJ 309:102 (1994).

    Example:
        >>> ppv([1, 0, 0], [1, 1, 0]).value
        0.5
    """
    return ppv_of(*_calls(truth, predicted, patients))


def npv(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Share of the cases called negative that are, with Wilson's interval.

    Args, returns, raises: as ``sensitivity``; n is the number of cases called negative.

    Source: Altman and Bland, BMJ 309:102 (1994).

    Example:
        >>> npv([1, 0, 0], [0, 0, 0]).value
        0.6666666666666666
    """
    return npv_of(*_calls(truth, predicted, patients))


def sensitivity_of(yes: Bools, called: Bools, patients: Patients) -> Estimate:
    """``sensitivity`` of arrays that were checked."""
    return proportion("sensitivity", called[yes], patients.at(yes), "no positive case")


def specificity_of(yes: Bools, called: Bools, patients: Patients) -> Estimate:
    """``specificity`` of arrays that were checked."""
    return proportion("specificity", ~called[~yes], patients.at(~yes), "no negative case")


def ppv_of(yes: Bools, called: Bools, patients: Patients) -> Estimate:
    """``ppv`` of arrays that were checked."""
    return proportion("ppv", yes[called], patients.at(called), "no case called positive")


def npv_of(yes: Bools, called: Bools, patients: Patients) -> Estimate:
    """``npv`` of arrays that were checked."""
    return proportion("npv", ~yes[~called], patients.at(~called), "no case called negative")


def f1(truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Harmonic mean of sensitivity and PPV, 2 TP / (2 TP + FP + FN).

    The interval comes from the Jaccard index J = TP / (TP + FP + FN), a proportion of the cases that are positive or
    called so: Wilson's interval of J, taken back by F1 = 2 J / (1 + J).

    Args, raises: as ``sensitivity``.

    Returns:
        The estimate, in [0, 1], with n the cases that are positive or called so; None with a reason when there is none.

    Source: van Rijsbergen, Information Retrieval (1979); indirect Wilson interval: Lam, Gopal and Qian,
    arXiv:2309.14621 (2023).

    Example:
        >>> f1([1, 1, 0, 0], [1, 0, 0, 1]).value
        0.5
    """
    return f1_of(*_calls(truth, predicted, patients))


def f1_of(yes: Bools, called: Bools, patients: Patients) -> Estimate:
    """``f1`` of arrays that were checked."""
    either = yes | called
    if not either.any():
        return undefined("f1", 0, "no case is positive or called positive")
    jaccard = proportion("f1", (yes & called)[either], patients.at(either), "")
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value or 0.0, jaccard.low or 0.0, jaccard.high or 0.0))
    return Estimate("f1", value, min(low, value), max(high, value), jaccard.n, f"{jaccard.method} on F1/(2-F1)")


def brier(
    probability: ArrayLike,
    positive: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Mean squared difference between probability and what was (1 or 0); smaller is better.

    Args:
        probability: (n,) probability of being positive, in [0, 1].
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        The estimate, in [0, 1]; value None with a reason when there is no case.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A probability outside [0, 1], a truth other than 0 and 1.

    Source: Brier, Mon. Weather Rev. 78:1–3 (1950), for one class, as most software has it: half of Brier's sum.

    Example:
        >>> brier([0.0, 0.5, 1.0, 1.0], [0, 1, 1, 1]).value
        0.0625
    """
    chance, yes = chances("probability", probability), yes_no("positive", positive)
    n = same_length(probabilities=chance, truths=yes)
    if not n:
        return undefined("brier", 0, "no case")
    who, draws = Patients.of(patients, n), (bootstrap or Bootstrap()).affordable(n)
    errors = (chance - yes) ** 2
    sums = draws.sums(np.stack([who.totals(errors), who.totals(np.ones(n))], axis=1))
    value = float(errors.mean())
    fallback = bounded_mean_fallback(value, drawn_patients(who))
    return bounded_estimate("brier", value, sums[:, 0] / sums[:, 1], n, draws, fallback)


def bins_for(n: int) -> int:
    """Ten bins, fewer where one would hold less than five cases: a bin of one case is always far from the truth."""
    return min(BINS, max(1, n // FEWEST_IN_A_BIN))


def equal_mass_bins(probability: Floats, bins: int = BINS) -> Ints:
    """(n,) bin of each probability: bins hold about as many cases each, and equal probabilities stay together."""
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins, method="inverted_cdf"))
    return np.searchsorted(edges, probability, side="left").astype(np.int64)


def equal_width_bins(probability: Floats, bins: int = BINS) -> Ints:
    """(n,) bin of each probability: (0, 1/bins], (1/bins, 2/bins] …; 0 itself is in the first."""
    return np.searchsorted(np.arange(1, bins) / bins, probability, side="left").astype(np.int64)


def binned_excess(excess: Floats, of_bin: Ints, bins: int, patients: Patients) -> Floats:
    """(patients, bins) sum of ``excess`` (n,), probability less outcome, in each bin; what ECE is made of."""
    cells = patients.codes * bins + of_bin
    sums = np.bincount(cells, weights=excess, minlength=patients.count * bins)
    return np.asarray(sums, dtype=np.float64).reshape(patients.count, bins)


def ece(
    probability: ArrayLike,
    positive: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
    bins: int | None = None,
) -> Estimate:
    """Expected calibration error: over bins, the mean distance between mean probability and what was.

    Bins hold equally many cases (equal mass), with equal probabilities kept together. A bin of equal width may be
    nearly empty, which makes the error large by chance (Nixon et al. 2019; Roelofs et al. 2022). The error is never
    negative, so chance pushes it up, and every resampling once more: the interval's percentiles are corrected for that.

    Args:
        probability: (n,) probability of being positive, in [0, 1].
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent. The bins stay as they are.
        bins: Number of bins, 1 … 1,000; None for ten, fewer where a bin would hold less than five cases.

    Returns:
        The estimate, in [0, 1]; value None with a reason when there is no case.

    Raises:
        UsageError: Lengths differ, bins out of range.
        DatasetError: A probability outside [0, 1], a truth other than 0 and 1.

    Source: Naeini et al., AAAI (2015); Guo et al., ICML (2017); Nixon et al., CVPR workshops (2019).

    Example:
        >>> round(ece([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1], bins=2).value, 9)
        0.1
    """
    chance, yes = chances("probability", probability), yes_no("positive", positive)
    n = same_length(probabilities=chance, truths=yes)
    if bins is not None and not 1 <= bins <= 1000:
        raise UsageError("the number of bins is out of range", got=bins, expected="1 … 1000")
    if not n:
        return undefined("ece", 0, "no case")
    return ece_of(chance, yes, Patients.of(patients, n), (bootstrap or Bootstrap()).affordable(n), bins)


def ece_of(chance: Floats, yes: Bools, patients: Patients, bootstrap: Bootstrap, bins: int | None = None) -> Estimate:
    """``ece`` of arrays that were checked."""
    n = len(chance)
    bins = bins or bins_for(n)
    excess = binned_excess(chance - yes, equal_mass_bins(chance, bins), bins, patients)
    sums = bootstrap.sums(np.column_stack([excess, patients.totals(np.ones(n))]))
    value = float(np.abs(excess.sum(axis=0)).sum()) / n
    replicates = np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1]
    fallback = bounded_mean_fallback(value, drawn_patients(patients))
    return bounded_estimate("ece", value, replicates, n, bootstrap, fallback)


def largest_scores(chance: NDArray[np.float64]) -> Ints:
    """(n,) column with the largest score of each row of (n, C); the first of equals."""
    return np.asarray(chance.argmax(axis=1), dtype=np.int64)
