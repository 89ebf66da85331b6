"""Structures measured, for ``medmap predict`` beside its masks and for ``medmap measure`` of any mask."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmap.cli.options import Json, Quiet
from medmap.errors import DataError, UsageError, counted

if TYPE_CHECKING:
    from medmap.dataset import Case, Dataset
    from medmap.image import Image
    from medmap.measure import Instances
    from medmap.results import Mask, Prediction


def measure(
    image: Annotated[Path, typer.Argument(help="The image: a file or a series folder.")],
    mask: Annotated[Path, typer.Argument(help="Its mask on the same grid: whole numbers, 0 is background.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new .csv or .json file; without it a table is shown.")
    ] = None,
    apart: Annotated[
        bool, typer.Option("--instances", help="Measure every connected part by itself, the largest first.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure every structure of a mask: volume, diameters, surface, place, and the image inside it."""
    from medmap.cli.show import Screen
    from medmap.measure import instances
    from medmap.read import read
    from medmap.results import Mask

    if output is not None and output.suffix.lower() not in (".csv", ".json"):
        raise UsageError("measurements are written as a table or as JSON", got=output.name, expected=".csv or .json")
    if output is not None and output.exists():
        raise UsageError(f"{output} exists", remedy="choose another name")
    lying, found = read(image), Mask.of(read(mask))
    rows = as_instances(_measured(lying, instances(found))) if apart else _measured(lying, found)
    with Screen(quiet, json) as screen:
        if output is not None:
            _write(rows, output, apart)
            screen.line(f"{counted(len(rows), 'instance' if apart else 'structure')} measured: {output}")
        if json:
            screen.document(rows)
        elif output is None:
            for row in rows:
                screen.result(_sentence(row))
            if not rows:
                screen.result("the mask is empty: no structure")


def add_measurements(
    outputs: Mapping[str, Any], answer: Prediction, data: Dataset, case: Case, *, apart: bool = False
) -> None:
    """What is measured of each structure, into an answer's outputs as JSON; intensities where the image lies beneath.

    Args:
        outputs: By name, as ``as_json`` gave them; the structures of masks are added to.
        answer: With the masks.
        data, case: Where its image is found.
        apart: Whether each connected part is measured too, as ``instances``.
    """
    from medmap.measure import instances
    from medmap.results import Mask

    masks = {name: value for name, value in answer.outputs.items() if isinstance(value, Mask)}
    if not masks:
        return
    image = _image_under(data, case)
    for name, mask in masks.items():
        for structure, measured in zip(outputs[name]["structures"], _measured_if_beneath(image, mask), strict=True):
            structure.update(measured)
        if apart:
            outputs[name]["instances"] = as_instances(_measured_if_beneath(image, instances(mask)))


def as_instances(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured instances as files have them: a number, and no count of parts.

    Example:
        >>> as_instances([{"value": 2, "label": "cyst", "voxels": 7, "parts": 1}])
        [{'instance': 2, 'structure': 'cyst', 'voxels': 7}]
    """
    names = {"value": "instance", "label": "structure"}
    return [{names.get(key, key): value for key, value in row.items() if key != "parts"} for row in rows]


def structure_tables(answers: Sequence[tuple[str, Mapping[str, Any], Sequence[str]]]) -> dict[str, str]:
    """``structures.csv`` and, where parts were measured one by one, ``instances.csv``.

    Args:
        answers: (case, a mask as JSON with what was measured, names of the case's files).
    """
    from medmap.measure import COLUMNS

    def table(first: Sequence[str], keys: Sequence[str], of: str) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", *first, *keys[len(first) :], "files"])
        for case, output, files in answers:
            named = " | ".join(files)
            writer.writerows([case, *(in_a_cell(one.get(key)) for key in keys), named] for one in output.get(of, ()))
        return text.getvalue()

    size = ("code", "voxels", "volume_ml")
    found = {"structures.csv": table(["structure"], ["label", *size, *COLUMNS], "structures")}
    if any("instances" in output for _, output, _ in answers):
        first = ["instance", "structure"]
        keys = [*first, *size, *(name for name in COLUMNS if name != "parts")]
        found["instances.csv"] = table(first, keys, "instances")
    return found


def surfaces(answer: Prediction, beside: Path, unwritten: dict[str, str]) -> list[str]:
    """Write an STL file a structure, ``000000.1-liver.stl``; their names, and into ``unwritten`` why there are none.

    Args:
        answer: With a mask.
        beside: The case's files without their endings.
        unwritten: Format → why.
    """
    from medmap.results import Mask
    from medmap.write import write
    from medmap.write.meshes import single_structures

    written = []
    masks = [value for value in answer.outputs.values() if isinstance(value, Mask)]
    try:
        if not masks:
            raise UsageError("a mesh is made of a mask", got=", ".join(answer.outputs))
        for name, one in single_structures(masks[0]):
            path = beside.with_name(f"{beside.name}.{name}.stl")
            write(one, path, format="stl", overwrite=True)
            written.append(path.name)
    except (DataError, UsageError) as error:  # the answer stands
        unwritten["stl"] = str(error)
    return written


def drawn(answer: Prediction, data: Dataset, case: Case, path: Path, unwritten: dict[str, str]) -> list[str]:
    """Write a mask or boxes on their image as PNG; its name, and into ``unwritten`` why there is none."""
    from medmap.results import Boxes, Mask
    from medmap.write import write
    from medmap.write.box_overlays import box_overlay
    from medmap.write.overlays import overlay

    shown = next((value for value in answer.outputs.values() if isinstance(value, Mask | Boxes)), None)
    image = _image_under(data, case)
    try:
        if shown is None or image is None:
            raise UsageError("an overlay shows a mask or boxes on its image", got=", ".join(answer.outputs) or "none")
        drawn = box_overlay(shown, image) if isinstance(shown, Boxes) else overlay(shown, image)
        write(drawn, path, format="png", overwrite=True)
    except (DataError, UsageError) as error:  # the answer stands
        unwritten["overlay"] = str(error)
        return []
    return [path.name]


def in_a_cell(value: Any) -> str:
    """A measurement in a table: six digits, coordinates apart by blanks, nothing where there is none.

    Example:
        >>> in_a_cell([1.5, 2]), in_a_cell(None)
        ('1.5 2', '')
    """
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(in_a_cell(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measured_if_beneath(image: Image | None, mask: Mask | Instances) -> list[dict[str, Any]]:
    """With intensities, unless the image lies elsewhere than the answer, which stands."""
    try:
        return _measured(image, mask)
    except DataError:
        return _measured(None, mask)


def _measured(image: Image | None, mask: Mask | Instances) -> list[dict[str, Any]]:
    """The structures; without intensities of an image in colour, in time or elsewhere (then JSON holds null)."""
    from medmap.measure import measure as structures_of

    if image is not None and (len(image.channels) > 1 or image.time_s is not None):
        image = None
    return [one.as_json() for one in structures_of(mask, image)]


def _image_under(data: Dataset, case: Case) -> Image | None:
    """The case's first input, where it can be read."""
    from medmap.read import read_ref

    ref = next((ref for ref in case.inputs.values() if ref is not None), None)
    try:
        return None if ref is None else read_ref(data, ref)
    except DataError:
        return None


def _write(rows: Sequence[Mapping[str, Any]], output: Path, apart: bool) -> None:
    import json

    from medmap.config import write_atomically
    from medmap.measure import COLUMNS

    if output.suffix.lower() == ".json":
        write_atomically(output, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    names = ["value", "label", "code", "voxels", "volume_ml", *COLUMNS]
    names = list(as_instances([dict.fromkeys(names)])[0]) if apart else names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([in_a_cell(row[name]) for name in names] for row in rows)
    write_atomically(output, text.getvalue())


def _sentence(row: Mapping[str, Any]) -> str:
    """One structure, or one instance, in a line for a person."""
    size = counted(row["voxels"], "voxel")
    if "instance" in row:
        told = [f"instance {row['instance']}, {row['structure']}: {size}"]
    else:
        told = [f"{row['label']}: {size} in {counted(row['parts'], 'part')}"]
    for name, words in (("volume_ml", "{} ml"), ("area_mm2", "{} mm²"), ("long_axis_mm", "long axis {} mm"),
                        ("short_axis_mm", "short axis {} mm"), ("intensity_mean", "mean {}")):  # fmt: skip
        if row[name] is not None:
            told.append(words.format(f"{row[name]:.4g}"))
    return ", ".join(told) + (f" {row['quantity']}" if row["quantity"] in ("HU", "SUVbw") else "")
