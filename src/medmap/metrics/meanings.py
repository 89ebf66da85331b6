"""What a metric says, each in a sentence for a reader who has not met it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "dice": "How far two masks overlap, from 0 (nothing in common) to 1 (the same mask).",
        "iou": "What two masks have in common, as a share of what both together cover.",
        "hd95_mm": "95 % of each surface lies no farther than this from the other.",
        "assd_mm": "How far the two surfaces lie apart on average.",
        "nsd": "The share of both surfaces that lies within a stated tolerance of the other.",
        "volume_error_ml": "Measured less true volume.",
        "lesion_sensitivity": "The share of the true masks' connected parts that are met; a part may be a lesion.",
        "lesion_precision": "The share of the parts drawn that meet a true one.",
        "lesion_f1": "Lesion sensitivity and precision in one number, near the smaller of the two.",
        "ap50": (
            "How pure boxes stay while ever more findings are found, from 0 to 1; a box is right when its IoU with a "
            "true one (what both have in common, as a share of what both cover) is at least 0.5."
        ),
        "ap50_95": "AP50 on average over stricter overlaps: an IoU of 0.5, 0.55 … 0.95.",
        "froc_cpm": "The share of findings that are found, on average over ⅛ to 8 false alarms an image.",
        "sensitivity": "Of what is there, the share that is found.",
        "specificity": "Of what is not there, the share that is rightly left alone.",
        "ppv": "Of what is called, the share that is right.",
        "f1": "Sensitivity and predictive value in one number, near the smaller of the two.",
        "auroc": "How often, of a case with the finding and one without it, the one with it has the higher score.",
        "false_positives_per_image": "Boxes called where there is nothing, on average.",
    }
)
OUT_OF_FOLD = "Out of fold: each case was judged by networks that did not learn from it."


def meaning(name: str) -> str:
    """What a metric says; empty where its name says it.

    Example:
        >>> meaning("ppv")
        'Of what is called, the share that is right.'
        >>> meaning("sensitivity_at_fppi_1")
        ''
    """
    return _MEANINGS.get(name, "")


def meanings(names: Iterable[str], but: Iterable[str] = ()) -> dict[str, str]:
    """Metric → what it says, once each in the order given, of those that have a sentence.

    Args:
        names: Metrics, as they stand on a page.
        but: Those that were explained before.
    """
    known = set(but)
    return {name: _MEANINGS[name] for name in names if name in _MEANINGS and name not in known}
