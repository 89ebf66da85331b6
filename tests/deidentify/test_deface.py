"""A head without its face: nose, chin and ears go, the brain stays; what is no head is refused."""

from __future__ import annotations

import numpy as np
import pytest

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
