"""The report of a run links a sheet of its own pictures: some of every modality, a bounded number, nobody named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from objects import ct_slice, file_of
from test_archive import NEEDLES

import medmap as mm
from medmap.deidentify import drawn


def put(folder: Path, modalities: list[str]) -> Path:
    folder.mkdir()
    for number, modality in enumerate(modalities):
        content = file_of(ct_slice(number, Modality=modality, SeriesInstanceUID=f"1.2.9.{ord(modality[0])}"))
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


def test_the_report_links_a_sheet_of_every_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "MOST_SAMPLES", 6)
    source = put(tmp_path / "in", ["CT"] * 15 + ["MR"] * 4 + ["QUIXOTELY"])
    made = mm.deidentify(source, tmp_path / "out", report=tmp_path / "r" / "report.html")
    assert made.samples == tmp_path / "r" / "report-samples.html"
    assert made.samples.stat().st_mode & 0o077 == 0
    page = made.samples.read_text()
    assert [page.count(f"<small>{word};") for word in ("CT", "MR", "other")] == [3, 2, 1]
    assert [n for n in NEEDLES if n in page.lower().encode()] == []
    assert 'href="report-samples.html"' in (tmp_path / "r" / "report.html").read_text()
    again = mm.deidentify(source, tmp_path / "out", report=tmp_path / "r" / "report.html", resume=True)
    assert again.samples is not None
    assert again.samples.read_text() == page, "the same pictures are drawn again, and the sheet is replaced"


def test_without_pictures_there_is_no_sheet(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(file_of(ct_slice(PixelData=None)))
    (source / "b.dcm").write_bytes(file_of(ct_slice(2, Rows=None)))  # pixels that nobody can show
    made = mm.deidentify(source, tmp_path / "out", report=tmp_path / "report.html")
    assert made.samples is None
    assert "samples" not in (tmp_path / "report.html").read_text()


def test_inverted_pictures_are_shown_as_a_viewer_shows_them() -> None:
    assert drawn._turned(np.array([[0, 5], [7, 7]], np.uint8)).tolist() == [[7, 2], [0, 0]]
