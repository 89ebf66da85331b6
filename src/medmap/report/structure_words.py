"""What a report of masks says in sentences: how well they overlap, what was missed, how every number was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmap.errors import counted
from medmap.evaluate import Report, StructureTable
from medmap.evaluate.names import metric_name
from medmap.evaluate.structures import PREDICTION
from medmap.metrics import Estimate, MaskRules
from medmap.report.tables import subgroup_rows_of
from medmap.report.words import named_split

UNSAID = "These cases do not allow a result to be stated."
RULE = (
    "Missed and invented structures count. Where a structure is in the truth and nothing was drawn, or drawn where "
    "there is none, Dice, IoU, NSD and lesion F1 are 0 and distances the diagonal of the field of view. Where it is in "
    "neither, they are 1 and distances 0. Only a structure that nobody looked for in a case is left out of that case."
)
_MEASURES = (
    "Dice and intersection over union count common voxels (Dice 1945; Jaccard 1912). A surface is the centres of a "
    "mask's voxels that share a face with a voxel outside it; distances are exact in millimetres. HD95 is the larger "
    "of the two directed 95th percentiles, ASSD the mean over both surfaces. NSD is the share of both surfaces within "
    "a tolerance of the other (Nikolov et al. 2021; {tolerance}). Definitions follow Taha and Hanbury (2015) and "
    "Maier-Hein et al. (2024); other tools use others."
)
_VOLUMES = (
    "Volumes are compared after Bland and Altman (1986, 1999): bias and 95 % limits of agreement, measured less true "
    "volume."
)
_OBSERVERS = (
    "The first observer is the truth. Another observer's masks are judged against it by the same measures; differences "
    "are paired, patients drawn for both at once."
)
_SUBGROUPS = (
    "Subgroups: numeric columns are cut at their quartiles (tertiles below 80 cases); groups of fewer than 10 cases "
    "have no value. Nothing is adjusted for the number of groups."
)
MOST_NAMED = 3
_HEADLINE = ("dice", "nsd", "hd95_mm", "iou")
MANY_LESIONS = 1.5  # lesions a structure, on average, from which they are worth a number at the top
NEARLY_ALL = 0.9  # of the true masks; more in one part make an organ of a structure
_TREE = re.compile(r"vessel|vascul|arter|vein|venous|capillar|airway|bronch|tree", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """How often a structure was found, over the cases in which somebody looked for it.

    Args:
        cases: Cases looked at.
        true: Cases in whose truth it is.
        both: Cases in which truth and mask have it.
        apart: Of these, cases in which the two have no voxel in common.
        missed: Cases in whose truth alone it is.
        invented: Cases in whose mask alone it is.
        lesions, lesions_found: Connected parts of the truth, and those of them that the mask meets.
        called, called_wrongly: Connected parts of the mask, and those of them that meet none.
    """

    cases: int
    true: int
    both: int
    apart: int
    missed: int
    invented: int
    lesions: int
    lesions_found: int
    called: int
    called_wrongly: int


def found_of(table: StructureTable) -> Found:
    """The counts of some rows: of one rater, and one structure or all of them."""
    scores = table.scores
    true = [bool(score.truth_voxels) for score in scores]
    drawn = [bool(score.prediction_voxels) for score in scores]
    pairs = list(zip(true, drawn, strict=True))
    return Found(
        cases=len(scores),
        true=sum(true),
        both=sum(a and b for a, b in pairs),
        apart=sum(a and b and not score.common_voxels for (a, b), score in zip(pairs, scores, strict=True)),
        missed=sum(a and not b for a, b in pairs),
        invented=sum(b and not a for a, b in pairs),
        lesions=sum(score.lesions.truth for score in scores),
        lesions_found=sum(score.lesions.found for score in scores),
        called=sum(score.lesions.prediction for score in scores),
        called_wrongly=sum(score.lesions.prediction - score.lesions.confirmed for score in scores),
    )


def structure_summary(report: Report) -> str:
    """The result in plain words, as one would tell it to a colleague."""
    table = report.structures
    dice = report.row("dice")
    if dice is None or dice.value is None:
        return UNSAID
    scale = "1 is the same mask, 0 nothing in common"
    span = f"{interval_words(dice)}; {scale}" if dice.low is not None else scale
    parts = [
        f"Masks of {listed(table.structures)} overlap the true ones by a Dice of {_number(dice.value)} ({span}).",
        _distance(report),
        _weakest(report),
        _missed(table),
        _volumes(report),
        *_observers(report),
    ]
    return " ".join(part for part in parts if part)


def listed(names: Sequence[str]) -> str:
    """A few names in a sentence; of many their number."""
    if len(names) > MOST_NAMED:
        return f"{len(names)} structures"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def two(row: Estimate | None) -> str:
    """``0.89 (95 % CI 0.88–0.90)``, or a dash."""
    if row is None or row.value is None:
        return "–"
    span = interval_words(row)
    return f"{_number(row.value)} ({span})" if span else _number(row.value)


def interval_words(row: Estimate) -> str:
    """``95 % CI 0.88–0.90``, or nothing."""
    if row.low is None or row.high is None:
        return ""
    return f"95 % CI {_number(row.low)}{' to ' if row.low < 0 else '–'}{_number(row.high)}"


def _number(value: float) -> str:
    """Two decimals; numbers below 0.1 two figures."""
    text = f"{value:.2g}" if 1e-4 <= abs(value) < 0.0995 else f"{value:.2f}"
    return text.replace("-", "−")


def _distance(report: Report) -> str:
    mean, far = report.row("assd_mm"), report.row("hd95_mm")
    if mean is None or far is None or mean.value is None or far.value is None:
        return ""
    found = found_of(report.structures.of())
    counted_in = (
        " (a missed or invented one counts as the whole field of view)" if found.missed + found.invented else ""
    )
    return (
        f"Their surfaces lie {_number(mean.value)} mm apart on average, and 95 % of a surface within "
        f"{_number(far.value)} mm of the other{counted_in}."
    )


def _weakest(report: Report) -> str:
    rows = [row for name in report.structures.structures if (row := report.row("dice", name)) and row.value is not None]
    if len(rows) < 2:
        return ""
    least = min(rows, key=lambda row: row.value or 0.0)
    return f"It is weakest for {least.group}: {two(least)}."


def _missed(table: StructureTable) -> str:
    found = found_of(table.of())
    if not found.missed and not found.invented:
        return "No structure was missed and none invented."
    missed = f"Of {counted(found.true, 'structure')} in the truth {found.missed or 'none'} {_were(found.missed)} missed"
    invented = f"{found.invented or 'none'} {_were(found.invented)} drawn where there is none"
    return f"{missed}; {invented}."


def _were(count: int) -> str:
    return "was" if count < 2 else "were"


def _volumes(report: Report) -> str:
    """What a single volume may be off by, of the few structures that a sentence can hold."""
    names = [name for name in report.structures.structures if _value(report, "volume_limit_low_ml", name) is not None]
    if not names or len(names) > MOST_NAMED:
        return ""
    spans = []
    for name in names:
        low, high = (_value(report, f"volume_limit_{end}_ml", name) or 0.0 for end in ("low", "high"))
        spans.append(f"{_signed(low)} to {_signed(high)} ml" + (f" ({name})" if len(names) > 1 else ""))
    return f"In 95 of 100 cases the volume is off by {listed(spans)}."


def _value(report: Report, name: str, group: str) -> float | None:
    row = report.row(name, group)
    return None if row is None else row.value


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _number(value)


def _observers(report: Report) -> list[str]:
    said = []
    for rater in dict.fromkeys(report.structures.raters):
        row = report.row("dice", stage=rater)
        if rater != PREDICTION and row is not None and row.value is not None:
            said.append(f"Another person ({rater}) has a Dice of {two(row)} on {counted(row.n, 'case')}.")
    return said


def in_parts(table: StructureTable) -> tuple[list[str], list[str], list[str]]:
    """Structures whose true mask is in one part in nearly all cases, those that branch, and those of several parts.

    A structure branches by its name alone: a tree breaks into parts as a mask does that holds several lesions.
    """
    one, trees, several = [], [], []
    for name in table.of().structures:
        parts = [score.lesions.truth for score in table.of(structure=name).scores if score.lesions.truth]
        if _TREE.search(name):
            trees.append(name)
        elif parts and parts.count(1) >= NEARLY_ALL * len(parts):
            one.append(name)
        else:
            several.append(name)
    return one, trees, several


def parts_words(table: StructureTable) -> str:
    """What the measures named after lesions mean for these structures, in a few sentences."""
    one, trees, several = in_parts(table)
    told = ["The measures named after lesions count parts: pieces of a mask that hang together."]
    if one:
        told.append(
            f"Of {listed(one)}, in one part in nearly every true mask, they say whether it was met and whether "
            "anything was drawn apart from it, and nothing of lesions."
        )
    if trees:
        told.append(f"Of {listed(trees)}, which branch, they say where the tree breaks off, and nothing of lesions.")
    if several and (one or trees):
        told.append(f"Of {listed(several)}, each part may be a lesion.")
    return " ".join(told)


def structure_headline(report: Report) -> list[tuple[str, Estimate]]:
    """The few numbers that stand at the top; another observer's Dice beside them."""
    counts = [found_of(report.structures.of(structure=name)) for name in in_parts(report.structures)[2]]
    several = sum(found.lesions for found in counts) > MANY_LESIONS * sum(found.true for found in counts)
    names = (*_HEADLINE[:-1], "lesion_f1") if several else _HEADLINE
    rows = [row for name in names if (row := report.row(name)) is not None and row.value is not None]
    found = [(measure(row), row) for row in rows]
    beside = []
    for rater in dict.fromkeys(report.structures.raters):
        row = report.row("dice", stage=rater)
        if rater != PREDICTION and row is not None and row.value is not None:
            beside.append((f"Dice of {rater}", row))
    return [*found[:1], *beside, *found[1:]]


def measure(row: Estimate) -> str:
    """A measure's name, with NSD its tolerance."""
    name = metric_name(row.name)
    return name if row.tolerance_mm is None else f"{name} at {row.tolerance_mm:g} mm"


def structure_methods(report: Report) -> list[str]:
    """How every number was made: the paragraphs a paper needs."""
    clustered = report.patients != report.cases
    whole = "patients with several cases are drawn whole" if clustered else "here each case is another patient"
    parts = [
        f"Evaluated: {counted(report.cases, 'case')} of {counted(report.patients, 'patient')} ({named_split(report)} "
        f"of {report.dataset_name}). A value over all structures is the mean over cases of each case's mean over its "
        f"structures. Intervals are 95 % intervals over patients from a bootstrap (percentiles, Efron and Tibshirani "
        f"1993); {whole}.",
        _MEASURES.format(tolerance=tolerance_words(report)),
        f"{RULE} A part, a lesion in the measures' names, is a connected component{lesion_words(report.rules)}. Lesion "
        "sensitivity is over the cases that have one.",
    ]
    parts += [_VOLUMES] if any(row.name == "volume_bias_ml" and row.value is not None for row in report.rows) else []
    parts += [_OBSERVERS] if set(report.structures.raters) - {PREDICTION} else []
    parts += [_SUBGROUPS] if subgroup_rows_of(report) else []
    return parts


def tolerance_words(report: Report) -> str:
    """NSD's tolerance, of each structure where they differ."""
    tolerances: dict[str, float | None] = {}
    for score in report.structures.scores:
        tolerances.setdefault(score.structure, score.tolerance_mm)
    different = {value for value in tolerances.values() if value is not None}
    if not different:
        return "not defined: the images have no millimetres"
    if len(different) == 1:
        return f"{different.pop():g} mm"
    named = [f"{name} {value:g} mm" for name, value in tolerances.items() if value is not None]
    more = f" and {len(named) - 8} more, in metrics.json" if len(named) > 8 else ""
    return ", ".join(named[:8]) + more


def lesion_words(rules: MaskRules | None) -> str:
    """What a part is and when it counts as found; empty where the rules are not known."""
    if rules is None:
        return ""
    touch = "faces or corners" if rules.lesion_connectivity == "corners" else "faces"
    share = "one of its voxels lies" if not rules.lesion_overlap else f"more than {rules.lesion_overlap:.0%} of it lies"
    return f" (voxels that touch by {touch}); it is found when {share.replace('%', ' %')} in the other mask"


def rules_facts(rules: MaskRules | None) -> Mapping[str, str]:
    """The rules in a line each."""
    if rules is None:
        return {}
    return {"Part of a mask": f"a connected component{lesion_words(rules)}"}
