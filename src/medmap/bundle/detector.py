"""What a person asks of a detector's bundle: from which score it calls a box, what it looks at, how it was judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medmap.bundle.spec import BundleSpec
from medmap.decision import Decision
from medmap.errors import BundleError, UsageError
from medmap.metrics import HitRule


@dataclass(frozen=True)
class DetectorFacts:
    """Plain facts.

    Args:
        operating_points: Class → score from which on a box is called; empty where none was fitted.
        calibrated: The classes whose scores are probabilities, fitted on cases not learned from.
        input_grid: What the network looks at, in words.
        judged: On how many cases, and what counted as a hit, in words; None where nothing was judged.
    """

    operating_points: dict[str, float]
    calibrated: tuple[str, ...]
    input_grid: str
    judged: str | None


def detector_facts(spec: BundleSpec) -> DetectorFacts:
    """The facts as far as a bundle states them.

    Args:
        spec: A detector's.
    """
    names = [label.name for label in spec.labels]
    try:
        decision = Decision.from_json(spec.decision)
    except (BundleError, UsageError):  # no decision yet
        decision = Decision()
    points = dict(zip(names, decision.thresholds, strict=False))
    shifts = decision.prior_shift or (0.0,) * len(names)
    warm = decision.temperature if isinstance(decision.temperature, tuple) else (decision.temperature,) * len(names)
    fitted = tuple(name for name, t, s in zip(names, warm, shifts, strict=False) if (t, s) != (1.0, 0.0))
    return DetectorFacts(points, fitted, _input_grid(spec), _judged(spec, decision))


def _input_grid(spec: BundleSpec) -> str:
    prepare = spec.run.get("prepare") or {}
    shape = " × ".join(str(n) for n in prepare.get("shape") or ())
    if not shape:
        return "not stated"
    if prepare.get("grid") == "spacing":
        spacing = " × ".join(f"{v:.3g}" for v in prepare.get("spacing_mm") or ())
        return f"patches of {shape} voxels, each {spacing} mm"
    if prepare.get("grid") == "native":
        return f"patches of {shape} of the image's own voxels"
    return f"the whole image at {shape}"


def _judged(spec: BundleSpec, decision: Decision) -> str | None:
    cases, how = decision.fitted_on.get("cases"), decision.fitted_on.get("how")
    if not cases:
        return None
    accepts: dict[str, Any] = next(iter(decision.accepts.values()), {})
    rule = HitRule.usual(accepts.get("ndim") or 2, accepts.get("spacing_mm") is not None)
    if rule.by == "centre":
        hit = "its centre lies within the finding's radius"
    else:
        hit = f"it overlaps the finding by an intersection over union of {rule.iou:g}"
    where = {"out of fold": "by networks that did not learn from them (out of fold)"}.get(str(how), f"({how})")
    return f"{cases} cases, {where}; a box finds a finding when {hit}"
