"""Each layout's example is recognised as itself alone, and opens without a pixel being read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from layout_examples import EXAMPLES

from medmap.errors import MedmapError
from medmap.layouts import LAYOUTS, open_dataset
from medmap.layouts.door import _chosen

# rows that also match, behind the right one: a table or folders that the richer layout contains
ALSO = {"medmap": {"csv"}, "innereye": {"csv"}, "nndetection": {"medmap"}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_recognised_as_itself(name: str, tmp_path: Path) -> None:
    EXAMPLES[name](tmp_path / "data")
    assert _chosen(tmp_path / "data", "auto").name == name
    others = {row.name for row in LAYOUTS if row.name != name and row.recognises(tmp_path / "data")}
    assert others <= ALSO.get(name, set()) | {"folders"}


def test_every_layout_has_an_example() -> None:
    # a folder of DICOM studies has its tests beside its reader
    assert {row.name for row in LAYOUTS if not row.name.startswith("dicom")} == set(EXAMPLES)


@pytest.mark.parametrize("name", [n for n in EXAMPLES if n != "nndetection"])
def test_opening_reads_no_pixel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EXAMPLES[name](tmp_path / "data")

    def forbidden(*_: object, **__: object) -> None:
        raise RuntimeError("pixels were read")

    monkeypatch.setattr(sys.modules["medmap.read.door"], "_image", forbidden)
    data = open_dataset(tmp_path / "data")
    assert len(data) >= 1
    assert data.digest == open_dataset(tmp_path / "data").digest


@pytest.mark.parametrize("name", ["yolo", "nndetection", "nnunet", "msd", "coco", "bids", "luna", "voc"])
def test_another_task_is_refused(name: str, tmp_path: Path) -> None:
    EXAMPLES[name](tmp_path / "data")
    with pytest.raises(MedmapError, match="one task"):
        open_dataset(tmp_path / "data", layout=name, task="enhance")


@pytest.mark.parametrize("name", ["yolo", "nndetection", "nnunet", "msd", "coco", "monai", "bids", "luna", "voc"])
def test_asked_for_where_it_is_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(MedmapError):
        open_dataset(tmp_path, layout=name)
