"""The figures of a classification report: how well it ranks, how honest it is, whom it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate import PredictionTable, Report
from medmap.evaluate.rows import largest
from medmap.metrics import (
    decision_curve,
    precision_recall_curve,
    reliability_curve,
    roc_curve,
    wilson,
)
from medmap.report.svg import AMBER, BLUE, COLOURS, GREEN, GREY, ORANGE, Plot, short, tick_text

Floats = NDArray[np.float64]
MOST_CLASSES = 8  # curves in one figure; more are a tangle
MOST_POINTS = 400


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption.

    Args:
        name: File name without ending.
        title: What it shows, in a few words.
        svg: The drawing.
        caption: How to read it, in a sentence or two.
        wide: Whether it takes the whole width of the page.
    """

    name: str
    title: str
    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Curve:
    """One yes-or-no question of a table: is it this class?"""

    name: str
    chance: Floats
    before: Floats | None
    yes: NDArray[np.bool_]
    patients: tuple[str, ...]
    threshold: float | None
    group: str

    @property
    def both(self) -> bool:
        """Whether there are cases with and without it."""
        return bool(self.yes.any() and not self.yes.all())


def curves(table: PredictionTable) -> list[Curve]:
    """The questions that curves are drawn of: the positive class, or each class against the others."""
    if table.kind == "regression":
        return []
    columns = [table.positive] if table.positive is not None else range(len(table.labels))
    found = []
    for c in columns:
        rows = np.arange(len(table))
        if table.kind == "multilabel":
            rows = np.flatnonzero(~np.isnan(table.truth[:, c]))
        found.append(
            Curve(
                table.labels[c],
                table.scores[rows, c],
                None if table.uncalibrated is None else table.uncalibrated[rows, c],
                (table.truth[rows, c] == 1) if table.kind == "multilabel" else table.truth == c,
                tuple(table.patients[row] for row in rows),
                None if table.thresholds is None else table.thresholds[c],
                "all" if table.kind == "binary" else table.labels[c],
            )
        )
    return found


def classification_figures(report: Report) -> list[Figure]:
    """All curves that the predictions allow."""
    table = report.predictions
    each = [curve for curve in curves(table) if curve.both]
    shown = each[:MOST_CLASSES]
    found = []
    if shown:
        found += [roc(report, shown), precision_recall(report, shown), reliability(shown)]
        found.append(histogram(shown[0]) if table.kind == "binary" else histograms(table))
        if table.kind in ("binary", "multilabel"):
            found.append(benefit(shown))
    if table.kind in ("binary", "multiclass", "ordinal") and len(table) > 1:
        found.append(coverage(table))
    return found


def _thinned(*arrays: Floats) -> list[Floats]:
    """At most a few hundred of the points, ends kept: a page of figures stays small."""
    n = len(arrays[0])
    if n <= MOST_POINTS:
        return list(arrays)
    rows = np.unique(np.linspace(0, n - 1, MOST_POINTS).round().astype(int))
    return [array[rows] for array in arrays]


def roc(report: Report, each: Sequence[Curve]) -> Figure:
    """ROC curves; of a single class with the band of a 95 % interval and the operating point."""
    plot = Plot("ROC curve", "1 − specificity (false alarms among the others)", "sensitivity")
    plot.line([(0, 0), (1, 1)], GREY, "chance", dash="4 4")
    single = len(each) == 1
    for curve, colour in zip(each, COLOURS, strict=False):
        found = roc_curve(curve.chance, curve.yes)
        if single:
            _band(plot, curve, colour)
        across, up = _thinned(found.false_positive_rate, found.true_positive_rate)
        row = report.row("auroc", curve.group)
        area = "" if row is None or row.value is None else f" {row.value:.2f}"
        if row is not None and row.low is not None and row.high is not None:
            area += f" ({row.low:.2f}–{row.high:.2f})"
        plot.line(list(zip(across, up, strict=True)), colour, f"{short(curve.name, 28)}: AUROC{area}")
        if curve.threshold is not None:
            called = curve.chance >= curve.threshold
            x, y = float(called[~curve.yes].mean()), float(called[curve.yes].mean())
            if single:
                plot.whisker((x, x), _share_interval(called[curve.yes]), ORANGE)
                plot.whisker(_share_interval(called[~curve.yes]), (y, y), ORANGE)
            plot.dot(x, y, ORANGE if single else colour, hollow=not single)
    if any(curve.threshold is not None for curve in each):
        plot.named("operating point", ORANGE if single else GREY, "dot" if single else "ring")
    words = "; ".join(f"{c.name}: AUROC {_value(report, c)}" for c in each)
    caption = "The nearer a curve to the upper left corner, the better scores tell the classes apart."
    if single:
        caption += " Band: 95 % interval of sensitivity at each specificity (Wilson)."
    return Figure("roc", plot.title, plot.svg(words), caption)


def _share_interval(hits: NDArray[np.bool_]) -> tuple[float, float]:
    return wilson(float(hits.sum()), float(len(hits)))


def _value(report: Report, curve: Curve) -> str:
    row = report.row("auroc", curve.group)
    return "not defined" if row is None or row.value is None else f"{row.value:.3f}"


def _band(plot: Plot, curve: Curve, colour: str) -> None:
    """Pointwise interval of sensitivity along the curve: patients with the class count once."""
    found = roc_curve(curve.chance, curve.yes)
    across, up = _thinned(found.false_positive_rate, found.true_positive_rate)
    worth = len({p for p, y in zip(curve.patients, curve.yes, strict=True) if y})
    ends = [wilson(u * worth, worth) for u in up]
    plot.band(across.tolist(), [low for low, _ in ends], [high for _, high in ends], colour)


def precision_recall(report: Report, each: Sequence[Curve]) -> Figure:
    """Precision-recall curves with the share of positives that chance reaches."""
    plot = Plot("Precision-recall curve", "sensitivity (recall)", "positive predictive value (precision)")
    for curve, colour in zip(each, COLOURS, strict=False):
        found = precision_recall_curve(curve.chance, curve.yes)
        recall, precision = _thinned(found.recall[1:], found.precision[1:])
        row = report.row("auprc", curve.group)
        area = "" if row is None or row.value is None else f" {row.value:.2f}"
        plot.line(list(zip(recall, precision, strict=True)), colour, f"{short(curve.name, 28)}: AUPRC{area}")
        share = float(curve.yes.mean())
        plot.line([(0, share), (1, share)], colour if len(each) > 1 else GREY, dash="3 4")
    plot.named("without skill: the share of positives", GREY, "dash")
    caption = "How many of those called positive are so, against how many of the positive are found."
    return Figure("precision_recall", plot.title, plot.svg("; ".join(c.name for c in each)), caption)


def reliability(each: Sequence[Curve]) -> Figure:
    """Probabilities against what was, before and after calibration; the first class where there are several."""
    plot = Plot("Calibration", "predicted probability", "observed share")
    plot.line([(0, 0), (1, 1)], GREY, "perfect calibration", dash="4 4")
    if len(each) == 1:
        curve = each[0]
        if curve.before is not None:
            _reliability_line(plot, curve, curve.before, AMBER, "before calibration", bars=False)
        label = "after calibration" if curve.before is not None else "scores as they are"
        _reliability_line(plot, curve, curve.chance, BLUE, label, bars=True)
    else:
        for curve, colour in zip(each, COLOURS, strict=False):
            _reliability_line(plot, curve, curve.chance, colour, short(curve.name, 28), bars=False)
    caption = (
        "Of the cases given 30 %, about 30 % should have the finding: points on the dashed line. "
        "Each point holds equally many cases; bars are 95 % intervals."
    )
    if len(each) > 1:
        caption = (
            "After calibration; on the dashed line probabilities keep their word. Each point holds equally many cases."
        )
    return Figure("reliability", plot.title, plot.svg("; ".join(c.name for c in each)), caption)


def _reliability_line(plot: Plot, curve: Curve, chance: Floats, colour: str, label: str, *, bars: bool) -> None:
    bins = max(2, min(10, len(chance) // 15))
    found = reliability_curve(chance, curve.yes, curve.patients, bins=bins)
    if bars:
        for x, low, high in zip(found.predicted, found.low, found.high, strict=True):
            plot.whisker((x, x), (low, high), colour)
    plot.line(list(zip(found.predicted, found.observed, strict=True)), colour, label)
    for x, y in zip(found.predicted, found.observed, strict=True):
        plot.dot(x, y, colour, 3 if bars else 2.5)


def histogram(curve: Curve) -> Figure:
    """Scores of those with and those without the finding, with the threshold."""
    edges = np.linspace(0, 1, 21)
    counts = [np.histogram(curve.chance[mask], edges)[0] for mask in (~curve.yes, curve.yes)]
    top = max(1, int(max(c.max() for c in counts)))
    plot = Plot("Scores by class", f"score for {short(curve.name, 40)}", "cases", y=(0, top * 1.08))
    names = (
        f"not {short(curve.name, 30)} ({int((~curve.yes).sum())})",
        f"{short(curve.name, 34)} ({int(curve.yes.sum())})",
    )
    for count, colour, name in zip(counts, (BLUE, ORANGE), names, strict=True):
        for value, low, high in zip(count, edges[:-1], edges[1:], strict=True):
            if value:
                plot.bar((low, high), (0, value), colour)
        plot.named(name, colour)
    if curve.threshold is not None:
        plot.line(
            [(curve.threshold, 0), (curve.threshold, top * 1.08)], GREEN, f"threshold {curve.threshold:.2f}", dash="6 3"
        )
    caption = "The less the two overlap, the better. Cases right of the threshold are called positive."
    return Figure("scores", plot.title, plot.svg(f"{names[0]}; {names[1]}"), caption)


def histograms(table: PredictionTable) -> Figure:
    """The score of the true class (multi-label: of each label where present and absent), a row a class."""
    count = min(len(table.labels), 12)
    plot = Plot("Scores by class", "score of the class", "", y=(0, count), height=max(120, 42 * count), left=150)
    for row, curve in enumerate(curves(table)[:count]):
        base = count - 1 - row
        for mask, colour in ((~curve.yes, BLUE), (curve.yes, ORANGE)):
            if mask.any():
                share = np.histogram(curve.chance[mask], np.linspace(0, 1, 31))[0] / mask.sum()
                high = share.max()
                for cell, value in enumerate(share):
                    if value:
                        plot.bar((cell / 30, (cell + 1) / 30), (base, base + 0.85 * value / high), colour)
        plot.words(0, base + 0.3, short(curve.name, 22), "end", (-8, 0))
    plot.named("with the class", ORANGE)
    plot.named("without it", BLUE)
    caption = "Each row: scores of cases with and without the class, each scaled to its own height."
    svg = plot.svg("; ".join(table.labels[:count]), y_ticks=False)
    return Figure("scores", plot.title, svg, caption)


def benefit(each: Sequence[Curve]) -> Figure:
    """Decision curve: net benefit against the risk from which one would act."""
    found = [(curve, decision_curve(curve.chance, curve.yes)) for curve in each]
    highest = max(float(curve.yes.mean()) for curve in each)
    low = -0.25 * highest
    plot = Plot("Decision curve", "risk from which one would act", "net benefit", y=(low, highest * 1.1))
    single = len(each) == 1
    for (curve, line), colour in zip(found, COLOURS, strict=False):
        inside = line.net_benefit >= low
        points = list(zip(line.thresholds[inside], line.net_benefit[inside], strict=True))
        plot.line(points, colour, "the model" if single else short(curve.name, 28))
        if single:
            above = line.treat_all >= low
            plot.line(list(zip(line.thresholds[above], line.treat_all[above], strict=True)), AMBER, "act on everyone")
    plot.line([(0, 0), (1, 0)], GREY, "act on no one", dash="4 4")
    caption = (
        "True positives a case, less false positives weighed by the odds of the risk (Vickers and Elkin 2006). "
        "The model helps where its line is the highest."
    )
    return Figure("decision_curve", plot.title, plot.svg("; ".join(c.name for c in each)), caption)


def coverage(table: PredictionTable) -> Figure:
    """How accurate the model is when it answers only the cases it is surest of."""
    right = (largest(table) == table.truth).astype(np.float64)
    order = np.argsort(-table.scores.max(axis=1), kind="stable")
    count = np.arange(1, len(table) + 1)
    share = np.cumsum(right[order]) / count
    start = max(1, min(10, len(table) // 2))
    ends = [wilson(float(s * c), float(c)) for s, c in zip(share, count, strict=True)]
    x, y, low, high = _thinned(
        (count / len(table))[start - 1 :],
        share[start - 1 :],
        np.array([a for a, _ in ends])[start - 1 :],
        np.array([b for _, b in ends])[start - 1 :],
    )
    floor = max(0.0, float(np.floor(low.min() * 10) / 10))
    plot = Plot(
        "Accuracy when unsure cases are left to a person", "share of cases answered", "accuracy", y=(floor, 1.0)
    )
    plot.band(x.tolist(), low.tolist(), high.tolist(), BLUE, "95 % interval")
    plot.line(list(zip(x, y, strict=True)), BLUE, "accuracy of the surest cases")
    abstained = np.asarray(table.abstained)
    if abstained.any():
        kept = ~abstained
        at = float(kept.mean())
        plot.dot(at, float(right[kept].mean()) if kept.any() else floor, ORANGE)
        plot.named(f"the bundle's rule: {100 * at:.0f} % answered", ORANGE, "dot")
    caption = (
        "Cases in the order of the largest score. A line that rises to the left means that doubt is worth something."
    )
    return Figure("coverage", plot.title, plot.svg("accuracy against coverage"), caption)


def regression_figures(table: PredictionTable) -> list[Figure]:
    """Predicted against true numbers, and their difference, a pair a target."""
    found = []
    for c, name in enumerate(table.labels[:4]):
        rows = np.flatnonzero(~np.isnan(table.truth[:, c]))
        if not len(rows):
            continue
        true, guess = table.truth[rows, c], table.scores[rows, c]
        shown = np.random.default_rng(0).permutation(len(rows))[:2000]
        suffix = "" if len(table.labels) == 1 else f"_{c + 1}"
        found += [_against(name, true, guess, shown, suffix), _difference(name, true, guess, shown, suffix)]
    return found


def _range(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    return low - pad, high + pad


def _against(name: str, true: Floats, guess: Floats, shown: NDArray[np.intp], suffix: str) -> Figure:
    both = _range(np.concatenate([true, guess]))
    plot = Plot(f"{short(name, 40)}: predicted against true", "true", "predicted", x=both, y=both)
    plot.line([(both[0], both[0]), (both[1], both[1])], GREY, "equal", dash="4 4")
    for row in shown:
        plot.dot(float(true[row]), float(guess[row]), BLUE, 2.2)
    plot.named("a case", BLUE, "dot")
    return Figure(
        f"predicted_true{suffix}",
        plot.title,
        plot.svg(f"{len(true)} cases"),
        "Each point a case; on the dashed line both agree.",
    )


def _difference(name: str, true: Floats, guess: Floats, shown: NDArray[np.intp], suffix: str) -> Figure:
    middle, gap = (true + guess) / 2, guess - true
    bias, width = float(gap.mean()), 1.96 * float(gap.std(ddof=1)) if len(gap) > 1 else 0.0
    x, y = _range(middle), _range(np.append(gap, [bias - width, bias + width]))
    plot = Plot(f"{short(name, 40)}: difference", "mean of predicted and true", "predicted − true", x=x, y=y)
    for row in shown:
        plot.dot(float(middle[row]), float(gap[row]), BLUE, 2.2)
    plot.line([(x[0], bias), (x[1], bias)], ORANGE, f"mean {tick_text(float(f'{bias:.3g}'))}")
    for end in (bias - width, bias + width):
        plot.line([(x[0], end), (x[1], end)], ORANGE, dash="5 4")
    plot.named(f"± {width:.3g}: 95 % of the differences", ORANGE, "dash")
    caption = "Bland and Altman (1986): a slope or a fan shape means that the error depends on the size."
    return Figure(f"difference{suffix}", plot.title, plot.svg(f"mean difference {bias:.3g}"), caption)


def training_figures(log: Sequence[Mapping[str, str]]) -> list[Figure]:
    """Loss and validation metrics against the epoch, a thin line a network.

    Args:
        log: The rows of ``log.csv``: member, epoch, then numbers.
    """
    if not log:
        return []
    names = [n for n in log[0] if n not in ("member", "epoch", "lr", "learning_rate", "seconds", "epoch_s")]
    losses = [n for n in names if "loss" in n]
    others = [n for n in names if n.startswith("val") and n not in losses]
    found = []
    for title, wanted, file in (
        ("Loss while training", losses, "training_loss"),
        ("Validation while training", others, "training_validation"),
    ):
        lines = {n: _lines(log, n) for n in wanted}
        lines = {n: parts for n, parts in lines.items() if parts}
        if not lines:
            continue
        points = [p for parts in lines.values() for part in parts for p in part]
        last = max(p[0] for p in points)
        y = _range(np.array([p[1] for p in points]))
        plot = Plot(title, "epoch", "", x=(0, max(last, 2)), y=y)
        for (name, parts), colour in zip(lines.items(), COLOURS, strict=False):
            for number, part in enumerate(parts):
                plot.line(part, colour, name.replace("_", " ") if number == 0 else None)
                if len(part) == 1:  # a line through one point is none
                    plot.dot(*part[0], colour)
        many = max(len(parts) for parts in lines.values())
        caption = f"{many} networks, a line each." if many > 1 else "One network."
        found.append(Figure(file, title, plot.svg(", ".join(lines)), caption))
    return found


def _lines(log: Sequence[Mapping[str, str]], name: str) -> list[list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in log:
        try:
            point = (float(row.get("epoch") or "nan"), float(row.get(name) or "nan"))
        except ValueError:
            continue
        if np.isfinite(point).all():
            lines.setdefault(row.get("member") or "0", []).append(point)
    return list(lines.values())
