"""``medmap export`` and ``medmap verify``: a bundle on another engine, and whether it gives the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medmap.cli.settings import require_folder
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset
    from medmap.runtime import Parity

TARGETS = ("onnx", "openvino")
EXAMPLES = 16
EXAMPLES_FOR_SCALES = 64  # of 16, ranges are too narrow for images to come


def export_bundle(model: Path, output: Path, to: str, dataset: Path | None, int8: bool = False) -> dict[str, Any]:
    """A copy of a bundle with an exported graph; the parity test runs on real cases when a dataset is given.

    Args:
        model: A bundle or a run.
        output: The new folder.
        to: onnx or openvino.
        dataset: Cases in any layout. For int8, some set the scales and others, of other patients, judge: those of the
            test split where there is one, else half of the patients.
        int8: Whether to add a network in 8-bit integers.

    Returns:
        ``bundle``, ``digest``, and ``engines``: the parity of each that was measured now, by ``engine:precision``.

    Raises:
        UsageError: The output exists, an unknown target, or int8 without cases or with those of one patient.
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
    inputs, truths, scales = _parity_examples(bundle, dataset, int8)
    try:
        shutil.copytree(bundle.path, output)
        made = export(Bundle.load(output), [cast("Any", to)], inputs, truths=truths, scales=scales)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    engines = {name: dict(p) for name, p in made.spec.engines.items() if name.partition(":")[0] == to}
    return {"bundle": str(made.path), "digest": made.digest, "engines": engines}


def at_this_site(bundle: Bundle, parity: Parity) -> str:
    """What ``verify`` found of an engine, in words; fewer bits are held against what they did at the export.

    On noise, which is all that a bundle keeps, masks and boxes are chance and differ more than on images.
    """
    key = parity.engine if parity.precision == "float32" else f"{parity.engine}:{parity.precision}"
    told = bundle.spec.engines.get(key, {})
    if parity.precision == "float32" or not parity.passed or "phantom_max_abs" not in told:
        return parity.verdict
    if not told.get("passed"):
        return f"refused at the export, and not used: on noise at most {parity.max_abs:.2g} from float32"
    dice, boxes = told.get("dice"), told.get("boxes_matched")
    seen = "" if dice is None else f" (there: Dice {dice:.4f} with its masks)"
    seen = seen if boxes is None else f" (there: {boxes:.2%} of its boxes)"
    return f"as far from float32 as at the export, on noise at most {parity.max_abs:.2g}{seen}"


def _parity_examples(bundle: Bundle, path: Path | None, int8: bool) -> tuple[Any, Any, Any]:
    """Prepared inputs for the parity test and their truths, phantoms without a dataset; and what sets 8-bit scales."""
    from medmap.bundle.parity import phantom_inputs
    from medmap.layouts import open_dataset
    from medmap.predict import examples
    from medmap.prepare import Recipe

    if path is None:
        section = Recipe.from_json(bundle.spec.members[0].recipe).section
        return phantom_inputs((1, section.channels, *section.shape), 8), None, None
    data = open_dataset(path)
    if not int8:
        return (*examples(bundle, data, EXAMPLES), None)
    for_scales, for_judging = _apart(bundle, data)
    return (*examples(bundle, for_judging, EXAMPLES), examples(bundle, for_scales, EXAMPLES_FOR_SCALES)[0])


def _apart(bundle: Bundle, data: Dataset) -> tuple[Dataset, Dataset]:
    """Cases that set scales, and cases of other patients that judge what they lose.

    Raises:
        UsageError: All cases are of one patient.
    """
    from medmap.dataset import deal
    from medmap.evaluate import as_dealt

    whole = as_dealt(data, [bundle])
    cases = [case for case in whole if case.truth.annotated] or list(whole)
    judging = [case for case in cases if case.split == "test"]
    held = {case.patient for case in judging}
    setting = [case for case in cases if case.patient not in held]
    if not judging or not setting:
        setting, judging = deal(cases, (1.0, 1.0), seed=0)
    if not judging or not setting:
        raise UsageError(
            "8-bit scales are judged on other patients than those that set them",
            got="cases of one patient",
            remedy="give a dataset of several patients, best with some that the networks did not learn from",
        )
    return data.with_cases(setting), data.with_cases(judging)
