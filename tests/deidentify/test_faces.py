"""Faces in a whole run: the series of a head loses its face once, other series keep every voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from objects import ct_slice, file_of

import medmap as mm
from medmap.deidentify.archive import journal_lines

SIZE, SPACING = 64, 4.0


def head_slices(count: int = 60, **values: object) -> list[bytes]:
    """A head: an ellipsoid of skin, skull and brain with a nose, in air; slices from the chin to above the crown."""
    y, x = np.mgrid[:SIZE, :SIZE] * SPACING - SIZE * SPACING / 2
    made = []
    for number in range(count):
        z = number * SPACING - 120
        radius = np.sqrt((x / 75) ** 2 + (y / 95) ** 2 + (z / 110) ** 2)
        volume = np.full((SIZE, SIZE), -1000)
        volume[radius < 1] = 40
        volume[(radius < 0.93) & (radius > 0.86)] = 900
        volume[(np.abs(x) < 12) & (np.abs(z + 25) < 14) & (y > -112) & (y < -85)] = 40
        ds = ct_slice(
            number, Rows=SIZE, Columns=SIZE, PixelSpacing=[str(SPACING)] * 2, SliceThickness=str(SPACING),
            ImagePositionPatient=[str(-SIZE * SPACING / 2)] * 2 + [str(z)], BodyPartExamined="HEAD",
            PixelData=(volume + 1024).astype("<i2").tobytes(), **values,
        )  # fmt: skip
        made.append(file_of(ds))
    return made


def put(folder: Path, files: list[bytes]) -> Path:
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


def volume_of(folder: Path) -> np.ndarray:
    slices = sorted((pydicom.dcmread(p) for p in folder.rglob("*.dcm")), key=lambda ds: ds.InstanceNumber)
    return np.stack([ds.pixel_array for ds in slices])


def test_the_face_goes_and_the_brain_stays(tmp_path: Path) -> None:
    source = put(tmp_path / "in", head_slices())
    made = mm.deidentify(source, tmp_path / "out", clean=["face"])
    assert made.verification.clean
    assert made.verification.notes == [{"note": "faces taken out", "files": 1}]
    before, after = volume_of(source), volume_of(made.output)
    nose = (slice(22, 26), slice(4, 8), slice(31, 34))
    assert before[nose].max() > 1000 > after[nose].max()
    brain = (slice(25, 45), slice(24, 40), slice(24, 40))
    np.testing.assert_array_equal(after[brain], before[brain])
    read = pydicom.dcmread(next(made.output.rglob("*.dcm")))
    assert read.RecognizableVisualFeatures == "NO"
    codes = [item.CodeValue for item in read.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113102"]
    stamps = {path: path.stat().st_mtime_ns for path in made.output.rglob("*.dcm")}
    mm.deidentify(source, tmp_path / "out", clean=["face"], resume=True)
    assert stamps == {path: path.stat().st_mtime_ns for path in made.output.rglob("*.dcm")}
    assert sum("face" in line for line in journal_lines(made.journal)) == 1


@pytest.mark.parametrize("clean", [(), ("face",)])
def test_another_part_of_the_body_keeps_every_voxel(tmp_path: Path, clean: tuple[str, ...]) -> None:
    source = put(tmp_path / "in", [file_of(ct_slice(n, BodyPartExamined="CHEST")) for n in range(9)])
    made = mm.deidentify(source, tmp_path / "out", clean=clean)
    np.testing.assert_array_equal(volume_of(source), volume_of(made.output))
    assert made.verification.notes == []


def test_a_head_that_cannot_be_judged_is_left_and_said(tmp_path: Path) -> None:
    twice = head_slices(9)
    source = put(tmp_path / "in", [*twice, *head_slices(1, SOPInstanceUID="1.2.826.0.1.9")])
    made = mm.deidentify(source, tmp_path / "out", clean=["face"], report=tmp_path / "r.html")
    assert [(row["place"], row["kind"]) for row in made.verification.residuals] == [("pixels", "face")]
    few = mm.deidentify(put(tmp_path / "few", twice[:3]), tmp_path / "out3", clean=["face"])
    assert few.verification.clean
    assert few.verification.notes == [{"note": "heads of too few slices to find a face in", "files": 1}]


def test_what_is_no_head_is_told_from_what_nobody_could_judge(tmp_path: Path) -> None:
    def chest(folder: str, part: str | None, *odd: bytes) -> Path:
        plain: dict[str, object] = {"Rows": SIZE, "Columns": SIZE, "PixelData": bytes(2 * SIZE**2)}
        slices = [file_of(ct_slice(n, BodyPartExamined=part, **plain)) for n in range(9)]
        return put(tmp_path / folder, [*slices[: len(slices) - len(odd)], *odd])

    # said to be a head: the rule finds none, and a face may be there all the same
    made = mm.deidentify(chest("a", "HEAD"), tmp_path / "a_out", clean=["face"])
    assert [(row["place"], row["kind"]) for row in made.verification.residuals] == [("pixels", "face")]
    assert made.verification.notes == [{"note": "heads in which the rule finds no head", "files": 1}]
    made = mm.deidentify(chest("b", None), tmp_path / "b_out", clean=["face"])
    assert made.verification.clean
    assert made.verification.notes == [{"note": "series without a head", "files": 1}]
    unsigned = ct_slice(8, Rows=SIZE, Columns=SIZE, BodyPartExamined=None, PixelData=bytes(2 * SIZE**2))
    unsigned.PixelRepresentation = 0
    made = mm.deidentify(chest("c", None, file_of(unsigned)), tmp_path / "c_out", clean=["face"])
    assert made.verification.notes == [{"note": "heads that could not be judged", "files": 1}]
    assert not made.verification.clean
