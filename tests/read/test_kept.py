"""Series asked for one by one: what is asked for is always compared with the disk, a large archive now and then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dicom_series as made
import medmap as mm
from medmap.errors import ReadError
from medmap.image import Image
from medmap.read.dicom import kept

OTHER = Image(made.phantom().array + np.int16(3), made.phantom().geometry)


def archive(folder: Path) -> Path:
    """Two series, each in a folder of its own: 2.25.5 in ``a``, 2.25.6 in ``b``."""
    for number, name in ((5, "a"), (6, "b")):
        changes = {n: {"SOPInstanceUID": f"2.25.{number}.{n}"} for n in range(11)}
        made.write(folder / name, changes=changes, SeriesInstanceUID=f"2.25.{number}")
    return folder


def overwrite(folder: Path, number: int) -> None:
    changes = {n: {"SOPInstanceUID": f"2.25.{number}.{n}"} for n in range(11)}
    made.write(folder, OTHER, changes=changes, SeriesInstanceUID=f"2.25.{number}", InstitutionName="elsewhere")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Every archive counts as large; how often it was scanned, and files were asked about."""
    counts = {"scans": 0, "files": 0}
    gather, stamp_of = kept.gather, kept.stamp_of

    def scanned(path: Path) -> Any:
        counts["scans"] += 1
        return gather(path)

    def asked(path: Path) -> tuple[int, int]:
        counts["files"] += 1
        return stamp_of(path)

    monkeypatch.setattr(kept, "gather", scanned)
    monkeypatch.setattr(kept, "stamp_of", asked)
    monkeypatch.setattr(kept, "QUICK_S", -1.0)
    monkeypatch.setattr(kept, "SHARE", 1e12)
    return counts


def test_only_the_series_asked_for_is_compared(tmp_path: Path, large: dict[str, int]) -> None:
    folder = archive(tmp_path)
    mm.read(f"{folder}#2.25.5")
    mm.read(f"{folder}#2.25.6")  # the first comparison is of everything
    large["files"] = 0
    for _ in range(3):
        mm.read(f"{folder}#2.25.5")
    assert large == {"scans": 1, "files": 3 * 11}


def test_the_series_asked_for_is_never_an_old_one(tmp_path: Path, large: dict[str, int]) -> None:
    folder = archive(tmp_path)
    for _ in range(2):
        assert np.array_equal(mm.read(f"{folder}#2.25.5").array, made.phantom().array)
    overwrite(folder / "a", 5)
    assert np.array_equal(mm.read(f"{folder}#2.25.5").array, OTHER.array)
    (folder / "a" / "notes.txt").write_text("one file more")
    mm.read(f"{folder}#2.25.5")
    assert large["scans"] == 3
    sorted((folder / "a").iterdir())[0].unlink()
    assert mm.read(f"{folder}#2.25.5").array.shape == (5, 7, 10)


def test_a_series_that_came_later_is_found(tmp_path: Path, large: dict[str, int]) -> None:
    folder = archive(tmp_path)
    for _ in range(2):
        mm.read(f"{folder}#2.25.5")
    with pytest.raises(ReadError, match=r"holds no series '2\.25\.7'"):
        mm.read(f"{folder}#2.25.7")
    made.write(folder / "c", changes={n: {"SOPInstanceUID": f"2.25.7.{n}"} for n in range(11)},
               SeriesInstanceUID="2.25.7")  # fmt: skip
    assert mm.read(f"{folder}#2.25.7").array.shape == (5, 7, 11)
    with pytest.raises(ReadError, match="3 series of images, not one"):
        mm.read(folder)


def test_the_rest_is_compared_when_it_is_due(
    tmp_path: Path, large: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archive(tmp_path)
    for _ in range(2):
        mm.read(f"{folder}#2.25.5")
    overwrite(folder / "b", 6)
    mm.read(f"{folder}#2.25.5")
    assert large["scans"] == 1
    monkeypatch.setattr(kept, "SHARE", 0)
    mm.read(f"{folder}#2.25.5")
    assert large["scans"] == 2


def test_a_zip_that_was_replaced_is_scanned_again(tmp_path: Path, large: dict[str, int]) -> None:
    import shutil

    folder = archive(tmp_path / "d")
    shutil.make_archive(str(tmp_path / "z"), "zip", folder)
    for _ in range(2):
        assert mm.read(f"{tmp_path}/z.zip#2.25.5").array.shape == (5, 7, 11)
    overwrite(folder / "a", 5)
    shutil.make_archive(str(tmp_path / "z"), "zip", folder)
    assert np.array_equal(mm.read(f"{tmp_path}/z.zip#2.25.5").array, OTHER.array)
    assert large["scans"] == 2


def test_no_more_archives_are_kept_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_ARCHIVES", 2)
    for number in range(4):
        mm.read(made.write(tmp_path / str(number), numbers=range(3)))
        assert kept.is_kept(tmp_path / str(number))
    assert len(kept._KEPT) <= 2
