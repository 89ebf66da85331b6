"""``medmap export`` and ``medmap verify``: a bundle on another engine, and whether it gives the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medmap.cli.settings import require_folder
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle

TARGETS = ("onnx", "openvino")
EXAMPLES = 16


def export_bundle(model: Path, output: Path, to: str, dataset: Path | None, int8: bool = False) -> dict[str, Any]:
    """A copy of a bundle with an exported graph; the parity test runs on real cases when a dataset is given.

    Args:
        model: A bundle or a run.
        output: The new folder.
        to: onnx or openvino.
        dataset: Cases in any layout; for int8 they also set the scales.
        int8: Whether to add a network in 8-bit integers.

    Returns:
        ``bundle``, ``digest``, and ``engines``: the parity of each that was measured now, by ``engine:precision``.

    Raises:
        UsageError: The output exists, an unknown target, or int8 without cases.
    """
    import shutil

    from medmap.bundle import Bundle, export

    if to not in TARGETS:
        raise UsageError("a bundle cannot be exported to this", got=to, expected="onnx or openvino")
    require_folder(output)
    if output.exists():
        raise UsageError(f"{output} exists already", remedy="choose another folder with -o")
    if int8 and dataset is None:
        raise UsageError("8-bit scales are set on real cases", got="no --dataset", remedy="give --dataset")
    bundle = Bundle.load(model)
    inputs, truths = _parity_examples(bundle, dataset)
    try:
        shutil.copytree(bundle.path, output)
        made = export(Bundle.load(output), [cast("Any", to)], inputs, truths=truths, int8=int8)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    engines = {name: dict(p) for name, p in made.spec.engines.items() if name.partition(":")[0] == to}
    return {"bundle": str(made.path), "digest": made.digest, "engines": engines}


def _parity_examples(bundle: Bundle, dataset: Path | None) -> tuple[Any, Any]:
    """Prepared inputs for the parity test, and truths: real ones where there is a dataset, else phantoms."""
    from medmap.bundle.parity import phantom_inputs
    from medmap.layouts import open_dataset
    from medmap.predict import examples
    from medmap.prepare import Recipe

    if dataset is not None:
        return examples(bundle, open_dataset(dataset), EXAMPLES)
    section = Recipe.from_json(bundle.spec.members[0].recipe).section
    return phantom_inputs((1, section.channels, *section.shape), 8), None
