"""A head without its face: nose, chin and ears go, the brain stays; what is no head is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from medmap import phantom
from medmap.deidentify.deface import deface_series, defaced
from medmap.errors import DataError, GeometryError
from medmap.geometry import Flip, Geometry, Permute
from medmap.image import Image
from medmap.phantom import anatomy
from medmap.phantom.anatomy import Ellipsoid

NOSE, CHIN = Ellipsoid((0, -105, -45), (14, 18, 22)), Ellipsoid((0, -92, -95), (25, 22, 20))
FACE = (Ellipsoid((0, -60, -70), (55, 50, 60)), NOSE, CHIN, Ellipsoid((0, 10, -120), (50, 55, 60)))


def head() -> tuple[Image, np.ndarray, np.ndarray]:
    """The phantom's head with a face and a neck: the image, its brain, and what sticks out in front."""
    drawn = anatomy.head(np.random.default_rng(0))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -88.5, -128.5, -133.5
    grid = Geometry((60, 80, 80), affine)
    points = anatomy.voxel_centres_mm(grid)
    values = anatomy.render(drawn, (), grid)
    skull, brain = drawn.painted[1][0].inside(points), drawn.painted[2][0].inside(points)
    soft = np.any([e.inside(points) for e in FACE], axis=0) & ~skull
    face = (NOSE.inside(points) | CHIN.inside(points)) & ~drawn.painted[0][0].inside(points)
    return Image((np.where(soft, 0.7, values) * 1000).astype(np.int16), grid), brain, face


def test_the_face_goes_and_the_brain_stays() -> None:
    image, brain, face = head()
    out, mask = defaced(image)
    gone = mask.array > 0
    assert gone[face].all()
    assert not gone[brain].any()
    assert (out.array[~gone] == image.array[~gone]).all()
    assert (out.array[gone] == image.array.min()).all()
    assert out.geometry == image.geometry == mask.geometry


def test_the_same_voxels_go_whatever_the_order_of_axes() -> None:
    image, _, _ = head()
    turned = image.moved(Permute((2, 0, 1)), Flip((0, 2)))
    _, mask = defaced(image)
    _, other = defaced(turned)
    assert (Permute((2, 0, 1)).on_array(mask.array, image.geometry)[::-1, :, ::-1] == other.array).mean() > 0.98


def test_what_is_no_head_is_refused() -> None:
    with pytest.raises(DataError, match="no head"):
        defaced(phantom.ct_volume(shape=(24, 24, 16), lesions=0).image)
    with pytest.raises(DataError, match="no head"):
        defaced(Image(np.zeros((20, 20, 20), np.int16), Geometry((20, 20, 20), np.diag([5.0, 5, 5, 1]))))
    with pytest.raises(GeometryError, match="front"):
        defaced(Image(np.zeros((8, 8, 8), np.int16), Geometry.without_size((8, 8, 8))))
    with pytest.raises(DataError, match="volume"):
        defaced(phantom.ct_slice(shape=(32, 32), lesions=0).image)
    with pytest.raises(DataError, match="more slices"):
        deface_series([])


@pytest.mark.parametrize(("modality", "kind"), [("CT", "<i2"), ("MR", "<i2"), ("CT", ">i2")])
def test_a_series_of_slices_loses_its_face_whatever_their_order(modality: str, kind: str) -> None:
    image, brain, face = head()
    low, slope = (-1000, 2) if modality == "CT" else (0, 1)
    series = []
    for k in range(image.array.shape[2]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if kind == "<i2" else ExplicitVRBigEndian
        ds.Modality, ds.RescaleSlope, ds.RescaleIntercept = modality, slope, low
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [3, 3]
        ds.ImagePositionPatient = [*image.geometry.affine_lps_mm[:2, 3].tolist(), -133.5 + 3 * k]
        stored = np.ascontiguousarray(image.array[:, :, k].T).astype(kind)
        ds.Rows, ds.Columns = stored.shape
        ds.BitsAllocated, ds.SamplesPerPixel, ds.PixelRepresentation = 16, 1, 1
        ds.PixelData = stored.tobytes()
        series.append(ds)
    turned = series[::-1]
    assert deface_series(turned) > face.sum()
    after = np.stack([np.frombuffer(ds.PixelData, kind).reshape(ds.Rows, ds.Columns).T for ds in series], axis=2)
    assert (after[brain] == image.array[brain]).all()
    assert (after[face] == image.array.min()).all()
    assert {ds.RecognizableVisualFeatures for ds in series} == {"NO"}
    series[3].ImagePositionPatient = series[4].ImagePositionPatient
    with pytest.raises(GeometryError, match="same place"):
        deface_series(series)
