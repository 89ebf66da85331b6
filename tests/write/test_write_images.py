"""Every image format is read back by another library, voxel by voxel in world millimetres, and by medmap itself."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as Pillow

import medmap as mm
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read import read
from medmap.results import Boxes, Label, Mask, Picture, Prediction, Scores
from medmap.write import write

SHAPE = (5, 7, 11)
SPACING = (0.7, 1.3, 2.9)


def oblique(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING) -> Geometry:
    """Oblique, anisotropic, off-origin; the axes are permuted and one is flipped."""
    a, b, c = np.radians([20.0, -35.0, 50.0])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (rz @ ry @ rx)[:, [2, 0, 1]] * (-1, 1, 1) * (*spacing, *(1.0,) * (3 - len(spacing)))
    affine[:3, 3] = (-123.456789, 45.678901, 987.654321)
    if len(shape) == 2:  # the third column of a plane is its unit normal
        affine[:3, 2] = np.cross(affine[:3, 1], affine[:3, 0])
        affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
    return Geometry(shape, affine)


def phantom(dtype: str = "int16") -> Image:
    """5 × 7 × 11, every voxel unique."""
    return Image(np.arange(5 * 7 * 11).reshape(SHAPE).astype(dtype), oblique())


def world_of_values(array: NDArray, to_world) -> dict[float, NDArray]:
    return {float(array[index]): to_world(index) for index in np.ndindex(*array.shape)}


def by_nibabel(path: Path) -> dict[float, NDArray]:
    image = nibabel.load(path)
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    return world_of_values(np.asarray(image.dataobj), lambda i: (lps @ (*i, 1))[:3])


def by_sitk(path: Path) -> dict[float, NDArray]:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    return world_of_values(array, lambda i: image.TransformIndexToPhysicalPoint([int(v) for v in i[::-1]]))


def by_pynrrd(path: Path) -> dict[float, NDArray]:
    array, header = nrrd.read(str(path))
    assert header["space"] == "left-posterior-superior"
    directions, origin = np.asarray(header["space directions"]), np.asarray(header["space origin"])
    return world_of_values(array, lambda i: np.asarray(i) @ directions + origin)


def by_medmap(path: Path) -> dict[float, NDArray]:
    image = read(path)
    return world_of_values(image.array, lambda i: image.geometry.to_world([i])[0])


READERS = [
    ("a.nii.gz", by_nibabel),
    ("a.nii", by_sitk),
    ("a.nii", by_medmap),
    ("a.nrrd", by_pynrrd),
    ("a.nrrd", by_sitk),
    ("a.nrrd", by_medmap),
    ("a.mha", by_sitk),
    ("a.mha", by_medmap),
]


@pytest.mark.parametrize(("name", "reader"), READERS)
def test_every_voxel_lands_at_its_millimetres(tmp_path: Path, name: str, reader) -> None:
    image = phantom()
    path = write(image, tmp_path / name)
    expected = world_of_values(image.array, lambda i: image.geometry.to_world([i])[0])
    found = reader(path)
    assert found.keys() == expected.keys()
    worst = max(float(np.abs(np.asarray(found[v]) - expected[v]).max()) for v in expected)
    assert worst < 1e-4  # NIfTI-1 keeps its affine in single precision


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
)
def test_types_and_values_come_back_through_medmap(tmp_path: Path, name: str, dtype: str) -> None:
    image = phantom(dtype)
    back = read(write(image, tmp_path / name))
    assert back.array.dtype == image.array.dtype
    np.testing.assert_array_equal(back.array, image.array)
    assert back.geometry.same_grid(image.geometry)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_channels_come_back(tmp_path: Path, name: str) -> None:
    array = np.arange(5 * 7 * 11 * 2, dtype=np.float32).reshape(*SHAPE, 2)
    back = read(write(Image(array, oblique(), channels=("t1", "t2")), tmp_path / name))
    np.testing.assert_array_equal(back.array, array)
    assert len(back.channels) == 2


def test_a_sheared_grid_survives_nifti(tmp_path: Path) -> None:
    affine = oblique().affine_lps_mm.copy()
    affine[:3, 2] += 0.3 * affine[:3, 0]
    image = Image(phantom().array, Geometry(SHAPE, affine))
    back = read(write(image, tmp_path / "a.nii"))
    assert back.geometry.same_grid(image.geometry)
    assert back.source.warnings == ()


def test_times_come_back_from_nifti_and_uneven_ones_are_refused(tmp_path: Path) -> None:
    array = np.arange(5 * 7 * 11 * 3, dtype=np.int16).reshape(*SHAPE, 3)
    image = Image(array, oblique(), time_s=(0.5, 2.5, 4.5))
    back = read(write(image, tmp_path / "a.nii.gz"))
    assert back.time_s == pytest.approx((0.5, 2.5, 4.5))
    np.testing.assert_array_equal(back.array, array)
    with pytest.raises(DataError, match="one step of time"):
        write(Image(array, oblique(), time_s=(0.0, 1.0, 5.0)), tmp_path / "b.nii")
    with pytest.raises(DataError, match="without times"):
        write(image, tmp_path / "b.nrrd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_plane_comes_back_from_nifti(tmp_path: Path, name: str) -> None:
    image = Image(np.arange(35, dtype=np.int16).reshape(5, 7), oblique((5, 7), (0.7, 1.3)))
    back = read(write(image, tmp_path / name))
    np.testing.assert_array_equal(back.array, image.array)
    assert back.geometry.same_grid(image.geometry)
    other = nibabel.load(tmp_path / name)
    assert other.shape == (7, 5)
    lps = np.diag([-1, -1, 1, 1]) @ other.affine
    np.testing.assert_allclose((lps @ (6, 4, 0, 1))[:3], image.geometry.to_world([(4, 6)])[0], atol=1e-4)


def test_a_plane_of_a_patient_becomes_a_volume_of_one_slice(tmp_path: Path) -> None:
    image = Image(np.arange(35, dtype=np.int16).reshape(5, 7), oblique((5, 7), (0.7, 1.3)))
    back = read(write(image, tmp_path / "a.mha"))
    assert back.array.shape == (7, 5, 1)
    np.testing.assert_array_equal(back.array[:, :, 0].T, image.array)
    np.testing.assert_allclose(back.geometry.to_world([(6, 4, 0)]), image.geometry.to_world([(4, 6)]), atol=1e-6)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_a_radiograph_keeps_its_spacing(tmp_path: Path, name: str) -> None:
    affine = np.eye(4)
    affine[:3, :2] = [[0, 0.2], [0.1, 0], [0, 0]]
    image = Image(np.arange(35, dtype=np.uint16).reshape(5, 7), Geometry((5, 7), affine, "detector"))
    back = read(write(image, tmp_path / name))
    assert back.geometry.kind == "detector"
    assert back.spacing_mm == pytest.approx((0.1, 0.2))
    np.testing.assert_array_equal(back.array, image.array)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_no_millimetres_are_invented(tmp_path: Path, name: str) -> None:
    with pytest.raises(GeometryError, match="millimetres"):
        write(Image(np.zeros((4, 5), np.uint8), Geometry.without_size((4, 5))), tmp_path / name)
    assert not list(tmp_path.iterdir())


def picture(array: NDArray) -> Image:
    channels = ("red", "green", "blue") if array.ndim == 3 else ("image",)
    return Image(array, Geometry.without_size(array.shape[:2]), "colour" if array.ndim == 3 else "arbitrary", channels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_pictures_keep_their_depth(tmp_path: Path, dtype: str, shape: tuple[int, ...], name: str) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) * (3 if dtype == "uint8" else 900)).astype(dtype)
    path = write(picture(array), tmp_path / name)
    np.testing.assert_array_equal(read(path).array, array)
    if name.endswith("tiff"):
        np.testing.assert_array_equal(tifffile.imread(path), array)
    elif not (dtype == "uint16" and len(shape) == 3):  # Pillow makes 8 bits of those
        with Pillow.open(path) as other:
            np.testing.assert_array_equal(np.asarray(other), array)


def test_a_png_of_bits(tmp_path: Path) -> None:
    array = np.eye(6, dtype=bool)
    np.testing.assert_array_equal(read(write(picture(array), tmp_path / "a.png")).array, array)


def test_a_png_takes_whole_numbers_of_any_type(tmp_path: Path) -> None:
    array = np.array([[0.0, 700.0], [65535.0, 3.0]])
    np.testing.assert_array_equal(read(write(picture(array), tmp_path / "a.png")).array, array)


@pytest.mark.parametrize("bad", [[[-1.0, 2.0]], [[0.5, 2.0]], [[0.0, 65536.0]], [[np.nan, 1.0]]])
def test_a_png_changes_no_value(tmp_path: Path, bad: list[list[float]]) -> None:
    with pytest.raises(DataError, match="would change the values"):
        write(picture(np.array(bad)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_png_holds_no_volume(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one picture"):
        write(phantom(), tmp_path / "a.png")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32", "float64"])
def test_a_tiff_keeps_sign_and_float(tmp_path: Path, dtype: str) -> None:
    array = (np.arange(24).reshape(6, 4) - 12).astype(dtype)
    np.testing.assert_array_equal(read(write(picture(array), tmp_path / "a.tif")).array, array)


def test_a_tiff_holds_a_stack(tmp_path: Path) -> None:
    path = write(phantom("float32"), tmp_path / "a.tiff")
    np.testing.assert_array_equal(read(path).array, phantom("float32").array)
    np.testing.assert_array_equal(tifffile.imread(path), np.moveaxis(phantom("float32").array, 2, 0))
    with pytest.raises(DataError, match="one picture or one grey volume"):
        write(Image(np.zeros((*SHAPE, 2)), oblique(), channels=("a", "b")), tmp_path / "b.tiff")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(array=arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3)), name=st.sampled_from(["a.nii", "a.nrrd", "a.mha"]))
def test_there_and_back(tmp_path: Path, array: NDArray, name: str) -> None:
    image = Image(array, oblique(array.shape))
    back = read(write(image, tmp_path / name, overwrite=True))
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.same_grid(image.geometry)


def test_an_odd_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write(Image(np.zeros(SHAPE, np.longdouble), oblique()), tmp_path / "a.nii")


# -- results ---------------------------------------------------------------------------------------------------------


def prediction() -> Prediction:
    scores = Scores((Label("malignant"), Label("benign")), np.array([0.25, 0.75]), "binary", decided=("benign",))
    mask = Mask((phantom().array > 100).astype(np.uint8), oblique(), {1: Label("lesion")})
    return Prediction("case_1", {"diagnosis": scores, "lesion": mask}, warnings=("odd",))


def test_a_prediction_as_json_and_csv(tmp_path: Path) -> None:
    data = json.loads(write(prediction(), tmp_path / "a.json").read_text())
    assert data["outputs"]["diagnosis"]["scores"] == {"malignant": 0.25, "benign": 0.75}
    assert data["warnings"] == ["odd"]
    text = write(prediction(), tmp_path / "a.csv").read_text()
    assert text == "case,output,decided,score_malignant,score_benign\ncase_1,diagnosis,benign,0.25,0.75\n"


def test_the_mask_of_a_prediction_as_nifti(tmp_path: Path) -> None:
    back = read(write(prediction(), tmp_path / "a.nii.gz"))
    assert back.quantity == "label"
    np.testing.assert_array_equal(back.array, phantom().array > 100)


def test_a_picture_and_scores_alone(tmp_path: Path) -> None:
    assert read(write(Picture(phantom()), tmp_path / "a.mha")).array.max() == 384
    scores = Scores((Label("a"),), np.array([0.5]), "multilabel")
    assert "scores" in write(scores, tmp_path / "b.csv").read_text()


def test_overlapping_structures_are_channels(tmp_path: Path) -> None:
    array = np.zeros((*SHAPE, 2), bool)
    array[0, 0, 0] = True
    mask = Mask(array, oblique(), {1: Label("whole"), 2: Label("core")})
    np.testing.assert_array_equal(read(write(mask, tmp_path / "a.nii.gz")).array, array)
    one = Mask(array[..., :1], oblique(), {1: Label("whole")})
    np.testing.assert_array_equal(read(write(one, tmp_path / "b.nii.gz")).array, array[..., 0])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    boxes = Boxes(np.zeros((0, 6)), np.zeros(0), np.zeros(0), (Label("a"),), oblique())
    only_boxes = Prediction("c", {"boxes": boxes})
    for value, name, what in [
        (
            Prediction("c", {"mask": Mask(np.zeros((5, 7, 11), np.uint8), oblique(), {})}),
            "a.csv",
            "only scores and boxes",
        ),
        (only_boxes, "a.nii", "one mask or picture"),
        (phantom(), "a.json", "only results"),
        ("a string", "a.png", "no image"),
        (phantom(), "a.xyz", "does not say its format"),
        (phantom(), "a\0.nii", "NUL"),
    ]:
        with pytest.raises(UsageError, match=what):
            write(value, tmp_path / name)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown format"):
        write(phantom(), tmp_path / "a", format="gif")
    assert not list(tmp_path.iterdir())


def test_the_front_door_is_the_same_function() -> None:
    assert mm.write is write


# -- whole or not at all ---------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        write(phantom(), path)
    assert path.read_text() == "precious"
    write(phantom(), path, overwrite=True)
    assert read(path).array.max() == 384


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to(tmp_path / "elsewhere.nii")
    with pytest.raises(UsageError, match="exists"):
        write(phantom(), tmp_path / "a.nii")
    assert not (tmp_path / "elsewhere.nii").exists()


def test_a_missing_folder_and_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write(phantom(), tmp_path / "absent" / "a.npy")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write(phantom(), tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())


def test_itk_failures_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write(phantom(), tmp_path / "absent" / "a.mha")


def test_a_file_that_appears_meanwhile_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: (tmp_path / "a.npy").write_text("other"))
    with pytest.raises(UsageError, match="appeared meanwhile"):
        write(phantom(), tmp_path / "a.npy")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_a_png_keeps_the_pixel_spacing(tmp_path: Path, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(dtype)
    image = Image(array, Geometry.from_spacing((5, 7), (0.5, 0.25)))
    path = write(image, tmp_path / "a.png")
    with Pillow.open(path) as theirs:
        assert theirs.info["dpi"] == pytest.approx((4000 * 0.0254, 2000 * 0.0254))
        np.testing.assert_array_equal(np.asarray(theirs).astype(int), array.astype(int))
    np.testing.assert_array_equal(read(path).array, array)
    with Pillow.open(write(picture(array.astype(np.uint8)), tmp_path / "b.png")) as without:
        assert "dpi" not in without.info
