"""The sheet shows what leaves, not what came, unless asked."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from medmap.deidentify.samples import Sample, sample_sheet
from medmap.errors import DataError, UsageError
from medmap.read.text import TextBox

AFTER, BEFORE = np.full((900, 600), 40, np.uint8), np.full((900, 600), 90, np.uint8)
ITEM = Sample("<P1>", AFTER, [TextBox(90, 60, 180, 360, "DOE^JANE", 0.9)], "read thoroughly", BEFORE)


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Picture.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_only_what_leaves_is_shown(tmp_path: Path) -> None:
    path = sample_sheet([ITEM, Sample("P2", np.zeros((8, 8, 3), np.uint16))], tmp_path / "a.html")
    page = path.read_text()
    first, second = pictures(page)
    assert first.shape == (450, 300)
    assert (first == 40).all()
    assert second.shape == (8, 8, 3)
    assert "DOE" not in page
    assert "&lt;P1&gt;" in page
    assert "left:10.00%;top:10.00%;width:50.00%" in page
    assert path.stat().st_mode & 0o077 == 0
    assert "http" not in page


def test_pictures_before_are_shown_when_asked_with_a_warning(tmp_path: Path) -> None:
    page = sample_sheet([ITEM], tmp_path / "a.html", show_before=True).read_text()
    assert [int(p[0, 0]) for p in pictures(page)] == [90, 40]
    assert "must not leave" in page


def test_bad_places_and_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        sample_sheet([], tmp_path / "a.html")
    with pytest.raises(UsageError, match="cannot be written"):
        sample_sheet([], tmp_path / "none" / "a.html")
    with pytest.raises(DataError, match="picture"):
        sample_sheet([Sample("P", np.zeros(4))], tmp_path / "b.html")
