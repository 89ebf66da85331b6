"""The figures of a segmentation report: how good each structure's masks are, and whether their volumes can be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate import StructureTable, volume_agreement
from medmap.evaluate.structures import PREDICTION
from medmap.evaluate.structures_rows import volumes
from medmap.metrics import Bootstrap, Estimate
from medmap.report.figures import Figure
from medmap.report.svg import BLUE, GREEN, GREY, ORANGE, Plot, short

Floats = NDArray[np.float64]
MOST_STRUCTURES = 30  # rows in one figure; the worst are shown
MOST_POINTS = 400
MOST_VOLUMES = 12
DRAWS = Bootstrap(500)


def structure_figures(table: StructureTable, rows: Sequence[Estimate] = ()) -> list[Figure]:
    """The distribution of Dice, and limits of agreement of the volumes of each structure.

    Args:
        table: The judged masks.
        rows: Its metrics, for the means and their intervals (``structure_rows``).
    """
    found = [dice_distribution(table, rows)] if len(table.of()) else []
    for structure in table.of().structures[:MOST_VOLUMES]:
        figure = bland_altman_figure(table, structure)
        found += [figure] if figure is not None else []
    return found


def dice_distribution(table: StructureTable, rows: Sequence[Estimate] = ()) -> Figure:
    """A row a structure, a point a case, worst structure at the bottom; the mean with its interval in another colour.

    Args:
        table: The judged masks; those of the prediction are drawn, and other observers' as rings.
        rows: Estimates among which ``dice`` of each structure is looked for.
    """
    means = {row.group: row for row in rows if row.name == "dice" and row.stage is None}
    part = table.of()
    values = {name: part.of(structure=name).values("dice") for name in part.structures}
    names = sorted(values, key=lambda name: (float(values[name].mean()), name))[:MOST_STRUCTURES]
    height = max(110, 24 * len(names))
    plot = Plot("Dice of every case", "Dice", "", y=(0, len(names)), height=height, left=150)
    for row, name in enumerate(names):
        middle = row + 0.5
        _points(plot, values[name], middle, BLUE, hollow=False)
        for rater in dict.fromkeys(table.raters):
            if rater != PREDICTION:
                _points(plot, table.of(rater, name).values("dice"), middle, GREY, hollow=True)
        estimate = means.get(name)
        centre = float(values[name].mean())
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            plot.whisker((estimate.low, estimate.high), (middle, middle), ORANGE)
        plot.whisker((centre, centre), (middle - 0.32, middle + 0.32), ORANGE)
        plot.words(0, middle, short(name, 20), "end", (-8, 4))
    plot.named("a case", BLUE, "dot")
    if set(table.raters) - {PREDICTION}:
        plot.named("another observer", GREY, "ring")
    plot.named("mean and 95 % interval", ORANGE, "line")
    caption = "Worst structure at the bottom. Missed and invented structures stand at 0, empty in both at 1."
    if len(names) < len(values):
        caption += f" The worst {len(names)} of {len(values)} structures are shown."
    words = "; ".join(f"{name}: mean {values[name].mean():.3f}" for name in names)
    return Figure("dice", plot.title, plot.svg(words, y_ticks=False), caption, wide=len(names) > 12)


def _points(plot: Plot, values: Floats, middle: float, colour: str, *, hollow: bool) -> None:
    if len(values) > MOST_POINTS:  # ends kept
        values = np.sort(values)[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]
    shift = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
    for value, away in zip(values, shift, strict=True):
        plot.dot(float(value), middle + float(away), colour, 2.4, hollow)


def bland_altman_names(table: StructureTable) -> list[str]:
    """Names of the figures of volumes that ``structure_figures`` draws."""
    drawn = [name for name in table.of().structures[:MOST_VOLUMES] if len(volumes(table, name)[0])]
    return [_volume_name(table, name) for name in drawn]


def _volume_name(table: StructureTable, structure: str) -> str:
    return f"volume_{table.structures.index(structure) + 1}"


def bland_altman_figure(table: StructureTable, structure: str, rater: str = PREDICTION) -> Figure | None:
    """Differences of volume against their means, with bias and limits of agreement; None where there is no volume.

    Args:
        table: The judged masks.
        structure: Whose volumes.
        rater: Whose masks.
    """
    true, found, _ = volumes(table, structure, rater)
    if not len(true):
        return None
    part = table.of(rater, structure)
    rows = {row.name: row for row in volume_agreement(part, DRAWS)}
    middle, gaps = (true + found) / 2, found - true
    ends = [v for row in rows.values() for v in (row.value, row.low, row.high) if v is not None]
    x, y = _range(middle), _range(np.append(gaps, [*ends, 0.0]))
    title = f"Volume of {short(structure, 30)}"
    plot = Plot(title, "mean of measured and true volume (ml)", "measured − true (ml)", x=x, y=y)
    plot.line([(x[0], 0), (x[1], 0)], GREY, dash="2 4")
    for name, colour in (("volume_limit_low_ml", ORANGE), ("volume_bias_ml", GREEN), ("volume_limit_high_ml", ORANGE)):
        row = rows[name]
        if row.value is None:
            continue
        if row.low is not None and row.high is not None:
            plot.band(list(x), [row.low] * 2, [row.high] * 2, colour)
        plot.line([(x[0], row.value), (x[1], row.value)], colour, dash="" if name == "volume_bias_ml" else "5 4")
    shown = np.random.default_rng(0).permutation(len(gaps))[:MOST_POINTS]
    for number in shown:
        plot.dot(float(middle[number]), float(gaps[number]), BLUE, 2.6)
    plot.named("a case", BLUE, "dot")
    plot.named(f"bias {_ml(rows['volume_bias_ml'])}", GREEN, "line")
    limits = f"{_ml(rows['volume_limit_low_ml'])} to {_ml(rows['volume_limit_high_ml'])}"
    plot.named(f"95 % of differences: {limits}", ORANGE, "dash")
    caption = (
        "Bland and Altman (1986, 1999): bands are 95 % intervals over patients. A slope or a fan means that the error "
        "depends on the size."
    )
    name = _volume_name(table, structure)
    return Figure(name, title, plot.svg(f"bias {_ml(rows['volume_bias_ml'])}; limits {limits}"), caption)


def _ml(row: Estimate) -> str:
    return "not defined" if row.value is None else f"{row.value:.3g} ml".replace("-", "−")


def _range(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    return low - pad, high + pad
