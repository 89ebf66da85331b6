"""``medmap predict``: answers as files, a case at a time, so that an interrupted call can go on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmap.cli import findings
from medmap.cli.images import as_dataset
from medmap.cli.measured import add_measurements, drawn, structure_tables, surfaces
from medmap.cli.resumed import KEPT, Row, earlier
from medmap.cli.uncertainty import uncertainty_of, without_uncertainty
from medmap.cli.worklist import NAME as WORKLIST
from medmap.cli.worklist import worklist
from medmap.config import write_atomically
from medmap.errors import DataError, InterruptedRun, MedmapError, UsageError, counted

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.cli.show import Screen
    from medmap.dataset import Case, Dataset
    from medmap.predict import MaskView
    from medmap.results import Prediction

# format → ending of a case's file; csv, coco and luna16 are one file of all cases; mask is nifti or, of a picture
# without a size, png
FORMATS = {
    "json": ".json",
    "csv": "",
    "coco": "",
    "luna16": "",
    "mask": "",
    "png": ".png",
    "dicom-sr": ".sr.dcm",
    "dicom-seg": ".seg.dcm",
    "dicom-rtstruct": ".rtstruct.dcm",
    "dicom-gsps": ".gsps.dcm",
    "dicom-seg-instances": ".instances.seg.dcm",
    "nifti": ".nii.gz",
    "instances": ".instances.nii.gz",  # of a picture without a size .instances.png
    "obj": ".obj",
    "stl": "",  # a file a structure
    "overlay": ".overlay.png",
}


@dataclass(frozen=True)
class Request:
    """How to answer.

    Args:
        formats: ``json`` (a file a case), ``csv`` (one table), of boxes ``coco`` and ``luna16`` (one file each), and
            what ``medmap.write`` makes of an answer: a DICOM report or object beside its source, a mask.
        engine, device: As in ``medmap.predict``.
        memory_bytes: Limits how many cases are answered together; None: medmap's own limit.
        resume: Go on in a folder that an earlier call of the same bundles left.
        view: Of masks: where and how to look.
    """

    formats: Sequence[str] = ("json", "csv")
    engine: str = "auto"
    device: str = "auto"
    memory_bytes: int | None = None
    resume: bool = False
    view: MaskView | None = None

    @property
    def apart(self) -> bool:
        """Whether connected parts of structures are told one by one."""
        return not {"instances", "dicom-seg-instances"}.isdisjoint(self.formats)

    @property
    def of_a_case(self) -> list[str]:
        """Formats of which each case has a file of its own; tables are made anew by every call."""
        return sorted(set(self.formats) - {"json", "csv", *findings.TABLES})


def write_answers(
    bundles: Sequence[Bundle], inputs: Sequence[Path], output: Path, how: Request, screen: Screen
) -> dict[str, Any]:
    """Answer for every image and write a JSON a case, tables of all cases and, last, ``index.json``.

    A row's ``error`` says why there is no answer; ``unwritten`` which formats of an answer there are not, and why.

    Raises:
        UsageError: An unknown format; an output folder that is not empty or, to resume, not of these bundles.
        InterruptedRun: Ctrl-C; every finished case is there.
    """
    if unknown := sorted(set(how.formats) - FORMATS.keys()):
        raise UsageError("unknown format", got=", ".join(unknown), expected=", ".join(FORMATS))
    findings.require_formats(how.formats, bundles[0])
    if how.resume and "json" not in how.formats:
        raise UsageError("--resume goes by the JSON of each case", got=",".join(how.formats), expected="--format json")
    digests = [bundle.digest for bundle in (*bundles, *(how.view.within if how.view else ()))]
    done = earlier(output, how.resume, digests, how.of_a_case, how.view.as_json() if how.view else None)
    with tempfile.TemporaryDirectory(prefix="medmap-predict-") as room:
        data, shown = as_dataset(inputs, bundles[0], Path(room).resolve())
        numbers = findings.coco_numbers(data, inputs, bundles[0]) if "coco" in how.formats else None
        with _folder(output):
            try:
                rows = _answered(bundles, data, output, how, screen, shown=shown, done=done)
            except KeyboardInterrupt as stop:
                said = "stopped by hand; every finished case is saved"
                raise InterruptedRun(said, remedy="--resume goes on") from stop
            finally:
                screen.close()
    for name, text in _tables(rows, how.formats, bundles[0].spec.task, numbers).items():
        write_atomically(output / name, text)
    known = list(dict.fromkeys(text for bundle in bundles for text in bundle.spec.warnings))
    index: dict[str, Any] = {"medmap_predictions": 1, "bundles": digests, "warnings": known, "cases": rows}
    if numbers is not None:
        index["coco"] = {name: dict(of) for name, of in numbers._asdict().items()}
    write_atomically(output / "index.json", json.dumps(index, indent=1, ensure_ascii=False))
    return index


@contextmanager
def _folder(output: Path) -> Iterator[None]:
    """The folder of the answers; gone again where it was made for a call that was refused before its first answer."""
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except MedmapError:
        if made and not any(output.iterdir()):
            output.rmdir()
        raise


def _answered(
    bundles: Sequence[Bundle],
    data: Dataset,
    output: Path,
    how: Request,
    screen: Screen,
    *,
    shown: Mapping[str, str],
    done: Mapping[tuple[str, str], Row],
) -> list[Row]:
    """The index's rows in the dataset's order; those finished earlier are taken as they are."""
    from medmap.predict import FailedCase, MaskView, predict_cases, predict_masks

    sources = {case.id: _source(data, case, shown) for case in data}
    rows = {case.id: done[case.id, sources[case.id]] for case in data if (case.id, sources[case.id]) in done}
    todo = [case for case in data if case.id not in rows]
    if rows:
        screen.line(
            f"{counted(len(rows), 'case')} {'was' if len(rows) == 1 else 'were'} finished earlier, {len(todo)} left"
        )
    names = _names(data, {path.name for path in output.iterdir()})
    view = how.view or (MaskView() if bundles[0].spec.task == "segment" else None)
    ask = predict_cases if view is None else partial(predict_masks, view=view)
    answers = ask(
        bundles,
        data.with_cases(todo or data.cases),
        engine=how.engine,
        device=how.device,
        memory_bytes=how.memory_bytes,
        progress=screen.counter("predicting"),
    )
    for case, answer in zip(todo, answers, strict=bool(todo)):
        row: Row = {"case": case.id, "input": sources[case.id], "files": [], "unwritten": {}}
        if isinstance(answer, FailedCase):
            reason = answer.reason
            for path, name in _replaced(data, case, shown):
                reason = reason.replace(path, name)
            rows[case.id] = {**row, "outputs": {}, "warnings": [], "error": reason}
            continue
        row["files"], row["unwritten"] = _other_files(answer, data, case, output / names[case.id], how)
        row |= _told(answer, row["unwritten"])
        foretold = {"expected_dice": answer.expected_dice, "probable_dice": answer.probable_dice}
        row |= {name: round(dice, 4) for name, dice in foretold.items() if dice is not None}
        add_measurements(row["outputs"], answer, data, case, apart=how.apart)
        if "json" in how.formats:  # last: it says that the case is finished
            row["files"] = [names[case.id], *row["files"]]
            document = {**answer.as_json(), "outputs": row["outputs"], **{key: row[key] for key in KEPT if key in row}}
            document |= {"formats": how.of_a_case, **({"view": how.view.as_json()} if how.view else {})}
            write_atomically(output / names[case.id], json.dumps(document, indent=1, ensure_ascii=False))
        if not row["files"] and not {"csv", *findings.TABLES} & set(how.formats) - row["unwritten"].keys():
            row["error"] = "; ".join(_sentences(row["unwritten"])) or None
        rows[case.id] = row
    return [rows[case.id] for case in data]


def _other_files(
    answer: Prediction, data: Dataset, case: Case, beside: Path, how: Request
) -> tuple[list[str], dict[str, str]]:
    """The names of a case's files of further formats; and format → why, of those that could not be written."""
    from medmap.write import write

    ref = next((ref for ref in case.inputs.values() if ref is not None), None)
    stem = beside.name.removesuffix(".json")
    unwritten: dict[str, str] = {}
    written = uncertainty_of(answer, beside.with_name(stem), unwritten)
    findings.add_misfits(answer, how.formats, unwritten)
    for wanted in how.formats:
        if wanted in ("json", "csv", *findings.TABLES) or ref is None:
            continue
        if wanted == "dicom-gsps" and findings.nothing_called(answer):
            continue
        name = _mask_format(answer) if wanted == "mask" else wanted
        if name == "stl":
            written += surfaces(answer, beside.with_name(stem), unwritten)
            continue
        path = beside.with_name(stem + _ending(name, answer))
        if name == "overlay":
            written += drawn(answer, data, case, path, unwritten)
            continue
        source = None
        if name.startswith("dicom-"):
            source = str(data.resolve(ref)) + ("" if ref.member is None else f"#{ref.member.partition('/')[0]}")
        try:
            write(without_uncertainty(answer), path, format=name, source=source, overwrite=True)
        except (DataError, UsageError) as error:  # the answer stands; the others go on
            unwritten[name] = str(error)
        else:
            written.append(path.name)
    return written, unwritten


def _told(answer: Prediction, unwritten: Mapping[str, str]) -> Row:
    outputs = {name: value.as_json() for name, value in answer.outputs.items()}
    return {"outputs": outputs, "warnings": [*answer.warnings, *_sentences(unwritten)], "error": None}


def _sentences(unwritten: Mapping[str, str]) -> list[str]:
    return [f"{name} was not written: {why}" for name, why in unwritten.items()]


def _names(data: Dataset, taken: set[str]) -> dict[str, str]:
    """A file name for each case: its number, or the next free one where an earlier answer has that."""
    names = {}
    for position, case in enumerate(data):
        number = position
        while f"{number:06d}.json" in taken:
            number += len(data)
        names[case.id] = f"{number:06d}.json"
    return names


def _source(data: Dataset, case: Case, shown: Mapping[str, str]) -> str:
    paths = [str(data.resolve(ref)) for ref in case.inputs.values() if ref]
    return "; ".join(shown.get(path, path) for path in paths)


def _replaced(data: Dataset, case: Case, shown: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where a case's files lie for the moment, and what a person knows them by."""
    paths = [str(data.resolve(ref)) for ref in case.inputs.values() if ref]
    return [(path, shown[path]) for path in paths if path in shown]


def _mask_format(answer: Prediction) -> str:
    """NIfTI keeps the place in the patient; a picture without a size stays a picture."""
    return "nifti" if all(grid.has_size for grid in answer.source.values()) else "png"


def _ending(format: str, answer: Prediction) -> str:
    """What a case's file of a format is called behind its number."""
    if format == "instances" and _mask_format(answer) == "png":
        return ".instances.png"
    return FORMATS[format]


def _tables(rows: Sequence[Row], formats: Sequence[str], task: str, numbers: findings.Numbers | None) -> dict[str, str]:
    """File name → text of all tables that were asked for."""
    if task == "detect":
        return findings.tables(rows, formats, numbers)
    if "csv" not in formats:
        return {}
    order = worklist(rows)
    good = [row for row in rows if row["error"] is None]
    if task == "segment":
        tables = structure_tables([(row["case"], one, row["files"]) for row in good for one in row["outputs"].values()])
    else:
        tables = {"scores.csv": _scores([(row["case"], one) for row in good for one in row["outputs"].values()])}
    return tables | ({} if order is None else {WORKLIST: order})


def _scores(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The table of all cases' scores, by (case, output)."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    found = [(case, output) for case, output in answers if output["type"] == "scores"]
    if found:
        writer.writerow(["case", "predicted", "abstained", *[f"score_{name}" for name in found[0][1]["scores"]]])
    for case, output in found:
        values = [f"{value:.6f}" for value in output["scores"].values()]
        writer.writerow([case, ";".join(output["decided"]), int(output["abstained"]), *values])
    return text.getvalue()


def sentences_on(cases: Sequence[Row]) -> tuple[list[str], str]:
    """For a person: what failed and which formats are missing, a sentence each; and how many cases were answered."""
    failed = [row for row in cases if row["error"]]
    warnings = []
    if failed:
        more = f" ({len(failed) - 1} more)" if len(failed) > 1 else ""
        warnings.append(f"{failed[0]['case']}: {failed[0]['error']}{more}")
    missing: dict[str, list[Row]] = {}
    for row in cases:
        for name in row["unwritten"] if not row["error"] else ():
            missing.setdefault(name, []).append(row)
    for name, rows in missing.items():
        first = rows[0]
        warnings.append(
            f"{name} was not written for {counted(len(rows), 'case')}; {first['case']}: {first['unwritten'][name]}"
        )
    without = "".join(f", {len(rows)} without {name}" for name, rows in missing.items())
    return warnings, f"{counted(len(cases) - len(failed), 'case')} answered{without}, {len(failed)} failed"
