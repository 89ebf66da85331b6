"""``medmap export`` and ``medmap verify``: a bundle on another engine, and whether it gives the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from medmap.cli.settings import require_folder
from medmap.errors import UsageError

TARGETS = ("onnx", "openvino")


def verdict(parity: Mapping[str, Any]) -> str:
    """A measured parity in words.

    Example:
        >>> verdict({"passed": True, "max_abs": 1.2e-7, "reason": None})
        'the same answer, at most 1.2e-07 apart'
        >>> verdict({"passed": False, "max_abs": None, "reason": "the engine knows no such layer"})
        'DIFFERS: the engine knows no such layer'
    """
    far, reason = parity["max_abs"], parity.get("reason")
    if reason:
        return f"DIFFERS: {reason}"
    if far is None:
        return "DIFFERS: an output is not a finite number"
    return f"the same answer, at most {far:.2g} apart" if parity["passed"] else f"DIFFERS: up to {far:.2g} apart"


def export_bundle(model: Path, output: Path, to: str, dataset: Path | None) -> dict[str, Any]:
    """A copy of a bundle with an exported graph; the parity test runs on real cases when a dataset is given.

    Returns:
        ``bundle``, ``digest``, and ``engines``: the parity of each that was measured now, by ``engine:precision``.

    Raises:
        UsageError: The output exists, or an unknown target.
    """
    import shutil

    from medmap.bundle import Bundle, export

    if to not in TARGETS:
        raise UsageError("a bundle cannot be exported to this", got=to, expected="onnx or openvino")
    require_folder(output)
    if output.exists():
        raise UsageError(f"{output} exists already", remedy="choose another folder with -o")
    bundle = Bundle.load(model)
    inputs = _parity_inputs(bundle, dataset)
    try:
        shutil.copytree(bundle.path, output)
        made = export(Bundle.load(output), [cast("Any", to)], inputs)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    engines = {name: dict(p) for name, p in made.spec.engines.items() if name.partition(":")[0] == to}
    return {"bundle": str(made.path), "digest": made.digest, "engines": engines}


def _parity_inputs(bundle: Any, dataset: Path | None) -> Any:
    """Prepared inputs for the parity test: real ones where there is a dataset, else phantoms."""
    import numpy as np

    from medmap.bundle.parity import phantom_inputs
    from medmap.layouts import open_dataset
    from medmap.prepare import Recipe
    from medmap.read import read_ref

    recipe = Recipe.from_json(bundle.spec.members[0].recipe)
    if dataset is None:
        return phantom_inputs((1, recipe.section.channels, *recipe.section.shape), 8)
    data = open_dataset(dataset)
    refs = [ref for case in data.cases[:16] for ref in case.inputs.values() if ref]
    return np.stack([recipe.apply(read_ref(data, ref)).tensors["image"] for ref in refs])
