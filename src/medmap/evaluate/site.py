"""A bundle for one site: the same networks under the decision that was fitted on the site's own cases."""

from __future__ import annotations

from pathlib import Path

from medmap.bundle import Bundle
from medmap.decision import Decision
from medmap.errors import UsageError

# What `Bundle.write` makes itself; every other file is taken over as it is.
_MADE = frozenset({"spec.json", "weights.safetensors", "CARD.md", "parity.npz", "SHA256SUMS"})
_NOTICE = (
    "Recalibrated for one site: calibration and operating point were fitted again on cases of that site. The card's "
    "numbers were measured before that."
)


def recalibrated_bundle(bundle: Bundle, decision: Decision, path: str | Path) -> Bundle:
    """Write a copy of a bundle that answers under another decision; the bundle itself stays as it is.

    The networks, recipes, exported model and its measured parity are the same: a decision comes after them. The copy
    has a digest of its own, names the bundle it came from, and says in card and warnings that it was recalibrated.

    Args:
        bundle: What was evaluated.
        decision: ``Report.recalibrated``, or ``Decision.from_json`` of the evaluation's ``decision.json``.
        path: Folder of the new bundle; nothing may stand there.

    Raises:
        UsageError: A decision for another number of classes, or with another positive class.
        BundleError: Something stands at ``path``, or the disk is full.

    Example:
        ``recalibrated_bundle(bundle, report.recalibrated, "runs/first-at-ghent/bundle")``
    """
    _require_fits(bundle, decision)
    from medmap.bundle.parity import read_parity

    spec = bundle.spec.model_copy(
        update={
            "decision": decision.to_json(),
            "provenance": {**bundle.spec.provenance, "recalibrated_from": bundle.digest},
            "warnings": tuple(dict.fromkeys([*bundle.spec.warnings, _NOTICE])),
        }
    )
    phantoms = read_parity(bundle.path / "parity.npz")[0] if "parity.npz" in bundle.hashes else None
    card = (bundle.path / "CARD.md").read_text(encoding="utf-8").rstrip("\n")
    return Bundle.write(
        path,
        spec,
        [bundle.state_dict(member) for member in range(len(bundle.spec.members))],
        card=card if _NOTICE in card else f"{card}\n\n## Recalibration\n\n{_NOTICE}\n",
        parity_inputs=phantoms,
        files={name: (bundle.path / name).read_bytes() for name in bundle.hashes if name not in _MADE},
    )


def _require_fits(bundle: Bundle, decision: Decision) -> None:
    classes = len(bundle.spec.labels)
    temperatures = decision.temperature if isinstance(decision.temperature, tuple) else ()
    for name, values in (
        ("thresholds", decision.thresholds),
        ("prior_shift", decision.prior_shift or ()),
        ("temperature", temperatures),
    ):
        if values and len(values) != classes:
            raise UsageError(f"the decision's {name} are not the bundle's classes", got=len(values), expected=classes)
    if decision.positive != bundle.decision.positive:
        raise UsageError(
            "the decision speaks of another positive class", got=decision.positive, expected=bundle.decision.positive
        )
