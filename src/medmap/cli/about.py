"""``medmap info`` and ``medmap schema``: what a thing is, and what a file may hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from medmap.errors import LayoutError, ReadError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.read import Series, Study

SHOWN = ("ap50", "ap50_95", "froc_cpm")  # of a detector's evaluation


def is_model(path: Path) -> bool:
    """Whether a folder is a bundle or holds one, whole or not: ``Bundle.load`` says what is wrong with it."""
    names = ("spec.json", "SHA256SUMS", "weights.safetensors")
    return any((folder / name).is_file() for folder in (path, path / "bundle") for name in names)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, with or without its bundle."""
    return (path / "run.yaml").is_file() and any((path / name).exists() for name in ("checkpoint", "store", "log.csv"))


def about(path: Path, header_only: bool) -> dict[str, Any]:
    """Facts about a bundle, a run, an image or a dataset, by name.

    Raises:
        ReadError: It does not exist, or is nothing medmap knows.
    """
    from medmap.read import is_collection

    if not path.exists() and "#" not in path.name:
        looked = "" if path.is_absolute() else f"; it was looked for from {Path.cwd()}"
        raise ReadError(
            f"{path} does not exist",
            expected="an image, a folder, zip or DICOMDIR of DICOM studies, a dataset, a run or a bundle",
            remedy="check the spelling" + looked,
        )
    if is_model(path) or is_run(path):
        return _bundle(path)
    if path.is_dir() or path.suffix.lower() in (".csv", ".yaml", ".yml"):
        try:
            facts = _dataset(path)
        except LayoutError:
            if not is_collection(path):
                raise
        else:
            # DICOM without any label is a study (or several) before it is a dataset
            if facts["layout"] == "dicom" and facts["annotated"]:
                found = list(_studies_of(path))
                return {**facts, "series": _listed(found), "warnings": [*facts["warnings"], *_problems(found)]}
            if facts["annotated"] or not is_collection(path):
                return facts
    if is_collection(path):
        return _studies(path, header_only)
    if path.suffix.lower() == ".npz":
        try:
            return _dataset(path)
        except LayoutError:
            return _image(path, header_only)
    return _image(path, header_only)


def _bundle(path: Path) -> dict[str, Any]:
    from medmap.bundle import Bundle

    bundle = Bundle.load(path)
    spec = bundle.spec
    return {
        "kind": "bundle",
        "task": spec.task,
        "name": spec.name,
        "created": spec.created,
        "labels": [label.name for label in spec.labels],
        "positive": None if spec.positive is None else spec.labels[spec.positive].name,
        "inputs": {name: value.modality or "any modality" for name, value in spec.inputs.items()},
        "members": len(spec.members),
        "network": spec.members[0].network["name"],
        "input_shape": list(spec.members[0].network["input_shape"]),
        **(_detector(bundle, path) if spec.task == "detect" else {}),
        "engines": [name for name, parity in spec.engines.items() if parity["passed"]],
        "trained_on": spec.provenance.get("dataset"),
        "licence": spec.licence,
        "digest": bundle.digest,
        "warnings": list(spec.warnings),
    }


def _detector(bundle: Bundle, path: Path) -> dict[str, Any]:
    """From which score on it calls boxes, what it looks at, and how it was judged when it was trained."""
    from medmap.bundle.detector import detector_facts

    facts = detector_facts(bundle.spec)
    return {
        "operating_points": {name: round(value, 4) for name, value in facts.operating_points.items()},
        "calibrated": list(facts.calibrated),
        "input_grid": facts.input_grid,
        "judged": facts.judged or "not judged",
        **_estimates(bundle, path),
    }


def _estimates(bundle: Bundle, path: Path) -> dict[str, Any]:
    """The main figures of the evaluation that training left beside the bundle, where it is of this bundle."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    for folder in (path, path.parent):
        file = folder / "evaluation" / "metrics.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["bundle"] == bundle.digest:
                rows = [row for row in found["metrics"] if row["group"] == "all" and row["name"] in SHOWN]
                return {row["name"]: {key: rounded(row[key]) for key in ("value", "low", "high")} for row in rows}
        except (OSError, ValueError, KeyError, TypeError):  # none there, or not one of medmap's
            continue
    return {}


def _dataset(path: Path) -> dict[str, Any]:
    from medmap.layouts import layout_of, open_dataset

    layout = layout_of(path)
    data = open_dataset(path, layout=layout)
    classes = Counter(data.labels[c.truth.label].name for c in data if c.truth.label is not None)
    return {
        "kind": "dataset",
        "layout": layout,
        "name": data.name,
        "task": data.task,
        "labels": list(data.label_names),
        "label_kind": data.kind,
        "positive": None if data.positive is None else data.labels[data.positive].name,
        "inputs": {name: spec.modality or "modality not stated" for name, spec in data.inputs.items()},
        "cases": len(data),
        "patients": len({c.patient for c in data}) if data.patients_known else None,
        "splits": dict(Counter(c.split or "none" for c in data)),
        "classes": dict(classes),
        "annotated": sum(c.truth.annotated for c in data),
        "with_second_observer": sum(len(c.truth.masks) > 1 for c in data) or None,
        "licence": data.licence,
        "source": data.source,
        "warnings": [] if data.patients_known else ["no patient identifier: every case counts as a patient of its own"],
    }


def _studies(path: Path, header_only: bool) -> dict[str, Any]:
    """A folder, zip or DICOMDIR of DICOM objects: a line a series, and what is wrong with it; one image's facts too."""
    found = list(_studies_of(path))
    several = len(found) > 1
    image = _of_the_only_image(path, found, header_only)
    return {
        "kind": "study" if not several else "studies",
        "studies": len(found),
        "patients": len({study.patient_id for study in found}),
        "dates": ", ".join(sorted({study.date for study in found if study.date})),
        "description": "; ".join(sorted({study.description for study in found if study.description})),
        "series": _listed(found),
        **image,
        "warnings": sorted({*_problems(found), *image.get("warnings", ())}),
    }


def _problems(found: Sequence[Study]) -> list[str]:
    return sorted({problem.message for study in found for problem in study.problems})


def _studies_of(path: Path) -> Iterator[Study]:
    from medmap.read import studies

    return studies(path)


def _listed(found: Sequence[Study]) -> list[dict[str, Any]]:
    """Every series under its study, which is told by its number here, its date and description: no name, no id."""
    return [
        {"study": number, "study_date": study.date, "study_description": study.description, **_series(series)}
        for number, study in enumerate(found, 1)
        for series in study.series
    ]


def _of_the_only_image(path: Path, found: list[Study], header_only: bool) -> dict[str, Any]:
    """What ``info`` of an image says, where there is one series of images and it reads as one."""
    # what is no image (a report, a segmentation) stands beside it
    kinds = ("volume", "picture", "cine", "localiser", "derived")
    pictures = [series for study in found for series in study.series if series.kind in kinds and series.readable]
    if len(pictures) != 1:
        return {}
    try:
        facts = _image(Path(f"{path}#{pictures[0].uid}"), header_only)
    except ReadError as error:  # several parts, or a problem that must be mended first
        return {"warnings": [str(error)]}
    taken = ("shape", "spacing_mm", "orientation", "quantity", "dtype", "minimum", "maximum", "warnings")
    return {key: facts[key] for key in taken}


def _series(series: Series) -> dict[str, Any]:
    first = series.parts[0] if series.parts else None
    return {
        "uid": series.uid,
        "number": series.number,
        "modality": series.modality,
        "kind": series.kind,
        "description": series.description,
        "objects": len(series.instances),
        "rows": series.headers.get("Rows"),
        "columns": series.headers.get("Columns"),
        "slices": first.slices if first else 0,
        "parts": [part.name for part in series.parts],
        "problems": [
            {"code": p.code, "message": p.message}
            for p in dict.fromkeys((*series.problems, *(p for part in series.parts for p in part.problems)))
        ],
    }


def series_lines(listed: Sequence[dict[str, Any]]) -> list[str]:
    """Series as lines for people; those of several studies stand below a line for each study."""
    several = len({series["study"] for series in listed}) > 1
    lines = []
    for number, of_study in groupby(listed, key=lambda series: series["study"]):
        series = list(of_study)
        if several:
            words = (f"study {number}", series[0]["study_date"], series[0]["study_description"])
            lines.append("  ".join(word for word in words if word))
        lines += [indent(series_line(one), "  ") if several else series_line(one) for one in series]
    return lines


def series_line(series: dict[str, Any]) -> str:
    """One series as one line for people; its problems follow in words."""
    size = f"{series['rows']} × {series['columns']} × {series['slices']}" if series["rows"] else ""
    parts = f"{len(series['parts'])} parts" if len(series["parts"]) > 1 else ""
    objects = f"{series['objects']} object" + ("s" if series["objects"] != 1 else "")
    number = "–" if series["number"] is None else str(series["number"])
    words = [number, series["modality"], series["kind"], size, objects, parts, series["description"], series["uid"]]
    problems = "".join(f"\n    {p['code']}: {p['message']}" for p in series["problems"])
    return "  ".join(word for word in words if word) + problems


def _image(path: Path, header_only: bool) -> dict[str, Any]:
    from medmap.read import info

    return info(path, header_only=header_only).as_json()


def schemas() -> dict[str, Callable[[], dict[str, Any]]]:
    """JSON Schemas by file name, made when asked for."""

    def run() -> dict[str, Any]:
        from medmap.plan import Run

        return Run.model_json_schema()

    def dataset() -> dict[str, Any]:
        from medmap.layouts import dataset_schema

        return dataset_schema()

    def spec() -> dict[str, Any]:
        from medmap.bundle import BundleSpec

        return BundleSpec.model_json_schema()

    def metrics() -> dict[str, Any]:
        from medmap.evaluate import metrics_schema

        return metrics_schema()

    def choice() -> dict[str, Any]:
        from medmap.evaluate import choice_schema

        return choice_schema()

    return {
        "run.yaml": run,
        "dataset.yaml": dataset,
        "spec.json": spec,
        "metrics.json": metrics,
        "choice.json": choice,
    }
