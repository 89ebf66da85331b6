"""``medmap predict`` and ``medmap export``: answers as files, and a bundle for another engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmap.config import write_atomically
from medmap.errors import LayoutError, UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.cli.show import Screen
    from medmap.dataset import Dataset
    from medmap.results import Prediction

FORMATS = ("json", "csv")


def write_answers(
    bundles: Sequence[Bundle],
    inputs: Sequence[Path],
    output: Path,
    formats: Sequence[str],
    engine: tuple[str, str],
    screen: Screen,
) -> dict[str, Any]:
    """Answer for every image and write ``index.json``, a JSON a case and ``scores.csv``.

    Raises:
        UsageError: The output folder is not empty, or an unknown format.
    """
    from medmap.predict import FailedCase, predict_cases

    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UsageError("unknown format", got=", ".join(unknown), expected=", ".join(FORMATS))
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty", remedy="choose another folder with -o")
    data = _as_dataset(inputs, bundles[0])
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    answers: list[Prediction] = []
    told = screen.counter("predicting")
    for case, answer in zip(
        data, predict_cases(bundles, data, engine=engine[0], device=engine[1], progress=told), strict=True
    ):
        source = "; ".join(str(data.resolve(ref)) for ref in case.inputs.values() if ref)
        if isinstance(answer, FailedCase):
            rows.append(
                {"case": case.id, "input": source, "files": [], "outputs": {}, "warnings": [], "error": answer.reason}
            )
            continue
        answers.append(answer)
        files = []
        if "json" in formats:
            files.append(f"{len(rows):06d}.json")
            write_atomically(output / files[0], json.dumps(answer.as_json(), indent=1, ensure_ascii=False))
        shown = {name: value.as_json() for name, value in answer.outputs.items()}
        row = {"case": case.id, "input": source, "files": files, "outputs": shown}
        rows.append({**row, "warnings": list(answer.warnings), "error": None})
    screen.close()
    if "csv" in formats:
        write_atomically(output / "scores.csv", _scores_csv(answers))
    index = {"medmap_predictions": 1, "bundles": [b.digest for b in bundles], "cases": rows}
    write_atomically(output / "index.json", json.dumps(index, indent=1, ensure_ascii=False))
    return index


def _scores_csv(answers: Sequence[Prediction]) -> str:
    import csv
    import io

    from medmap.results import Scores

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, answer in enumerate(answers):
        scores = next(o for o in answer.outputs.values() if isinstance(o, Scores))
        names = [label.name for label in scores.labels]
        if number == 0:
            writer.writerow(["case", "predicted", "abstained", *[f"score_{name}" for name in names]])
        decided = ";".join(scores.decided)
        writer.writerow([answer.case, decided, int(scores.abstained), *[f"{v:.6f}" for v in scores.values]])
    return text.getvalue()


def _as_dataset(inputs: Sequence[Path], bundle: Bundle) -> Dataset:
    """A dataset where one is given; else every image file named or found below a folder."""
    from medmap.layouts import open_dataset
    from medmap.predict import dataset_of_files
    from medmap.read import suffix_of

    if len(inputs) == 1 and (inputs[0].is_dir() or inputs[0].suffix.lower() in (".npz", ".csv", ".yaml", ".yml")):
        try:
            return open_dataset(inputs[0])
        except LayoutError:
            if not inputs[0].is_dir():
                raise
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and _is_image(p, suffix_of(p.name)))
        else:
            files.append(path)
    return dataset_of_files(files, bundle)


def _is_image(path: Path, suffix: str) -> bool:
    other = (".csv", ".json", ".yaml", ".yml", ".txt", ".md", ".html", ".xml")
    return not path.name.startswith(".") and suffix not in other


def export_bundle(model: Path, output: Path, to: str, dataset: Path | None) -> list[str]:
    """A copy of a bundle with an exported graph; the parity test runs on real cases when a dataset is given.

    Raises:
        UsageError: The output exists, or an unknown target.
    """
    import shutil

    from medmap.bundle import Bundle, export
    from medmap.bundle.parity import phantom_inputs
    from medmap.layouts import open_dataset
    from medmap.prepare import Recipe
    from medmap.read import read_ref

    if to not in ("onnx", "openvino"):
        raise UsageError("a bundle cannot be exported to this", got=to, expected="onnx or openvino")
    if output.exists():
        raise UsageError(f"{output} exists already", remedy="choose another folder with -o")
    bundle = Bundle.load(model)
    recipe = Recipe.from_json(bundle.spec.members[0].recipe)
    if dataset is None:
        inputs = phantom_inputs((1, recipe.section.channels, *recipe.section.shape), 8)
    else:
        import numpy as np

        data = open_dataset(dataset)
        refs = [ref for case in data.cases[:16] for ref in case.inputs.values() if ref]
        inputs = np.stack([recipe.apply(read_ref(data, ref)).tensors["image"] for ref in refs])
    try:
        shutil.copytree(bundle.path, output)
        made = export(Bundle.load(output), ["onnx" if to == "onnx" else "openvino"], inputs)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    lines = [
        f"{name}: {'passed' if p['passed'] else 'NOT passed'}, at most {p['max_abs']:.2g} apart"
        for name, p in made.spec.engines.items()
    ]
    return [*lines, f"bundle: {made.path}"]
