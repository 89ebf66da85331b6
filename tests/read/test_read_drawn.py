"""Structure sets as truth: filled on the series they were drawn on, found beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_sources import right_handed_image, written_series
from medmap.errors import ReadError
from medmap.read import read
from medmap.results import Label, Mask
from medmap.write import write

IMAGE = right_handed_image()
ARRAY = np.random.default_rng(2).integers(0, 4, IMAGE.geometry.shape).astype(np.uint8)
MASK = Mask(ARRAY, IMAGE.geometry, {1: Label("liver"), 2: Label("spleen"), 3: Label("cyst")})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a series, another one, and structure sets of the first beside it and below."""
    folder = written_series(tmp_path / "study" / "ct", IMAGE).parent
    written_series(folder / "another", IMAGE.moved(*IMAGE.geometry.oriented("RAS")))
    write(MASK, folder / "ct" / "rt.dcm", "dicom-rtstruct", source=sorted((folder / "ct").iterdir()))
    (folder / "rt").mkdir()
    shutil.copy(folder / "ct" / "rt.dcm", folder / "rt" / "rt.dcm")
    return folder


@pytest.mark.parametrize("where", ["ct/rt.dcm", "rt/rt.dcm"])
def test_it_reads_on_the_grid_of_its_series(study: Path, where: str) -> None:
    image = read(study / where)
    volume = read(f"{study / 'ct'}#{pydicom.dcmread(next((study / 'ct').glob('0*.dcm'))).SeriesInstanceUID}")
    assert image.geometry.same_grid(volume.geometry)
    assert (image.quantity, image.channels, image.source.modality) == ("label", ("image",), "RTSTRUCT")
    on_ours = image.match(IMAGE.geometry)
    assert np.array_equal(on_ours.array, ARRAY)


def test_chosen_regions_become_chosen_labels(study: Path) -> None:
    image = read(f"{study / 'rt' / 'rt.dcm'}#1>2,3>1").match(IMAGE.geometry)
    wanted = np.select([ARRAY == 1, ARRAY == 3], [2, 1], 0)
    assert np.array_equal(image.array, wanted)
    alone = read(f"{study / 'rt' / 'rt.dcm'}#2").match(IMAGE.geometry)
    assert np.array_equal(alone.array, ARRAY == 2)


def test_overlapping_regions(study: Path) -> None:
    both = np.stack([ARRAY > 0, ARRAY == 1], axis=-1)
    mask = Mask(both, IMAGE.geometry, {1: Label("all"), 2: Label("part")})
    path = write(mask, study / "over.dcm", "dicom-rtstruct", source=sorted((study / "ct").glob("0*.dcm")))
    image = read(path)
    assert image.channels == ("all", "part")
    assert np.array_equal(image.match(IMAGE.geometry).array, both)
    assert any("overlap" in w for w in image.source.warnings)
    with pytest.raises(ReadError, match="overlapping regions"):
        read(f"{path}#1>1,2>2")


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        ("9>1", "no region 9"),
        ("1>70000", "beyond what a label map holds"),
        ("1>1,1>2", "named twice"),
        ("liver", "no member"),
        ("1,2", "no member"),
    ],
)
def test_members_that_are_none(study: Path, member: str, sentence: str) -> None:
    with pytest.raises(ReadError, match=sentence):
        read(study / "rt" / "rt.dcm", member=member)


def test_a_series_that_is_not_there(study: Path, tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "far" / "off").mkdir(parents=True)
    path = shutil.copy(study / "rt" / "rt.dcm", tmp_path / "far" / "off" / "rt.dcm")
    with pytest.raises(ReadError, match="is not beside it"):
        read(path)
    data = pydicom.dcmread(path)
    del data.ReferencedFrameOfReferenceSequence
    data.save_as(path)
    with pytest.raises(ReadError, match="does not say which series"):
        read(path)
