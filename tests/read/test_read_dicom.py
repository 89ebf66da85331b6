"""Single DICOM files: what the numbers mean, where the pixels are, frames as volume or cine; against pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from medmap.errors import LimitError, ReadError
from medmap.read import header, info, read
from medmap.read.dicom import elements as elements_module

STORED = np.arange(6 * 4, dtype=np.uint16).reshape(6, 4) * 100
# an oblique plane: direction along a row (columns grow), then down a column (rows grow)
ALONG_ROW = np.array([0.8, 0.6, 0.0])
DOWN = np.array([-0.36, 0.48, -0.8])
ORIGIN = np.array([-120.5, 33.25, 71.0])


def made(stored: np.ndarray = STORED, **changes: object) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, generate_uid(), "CT"
    data.Rows, data.Columns, data.SamplesPerPixel = 6, 4, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.ImageOrientationPatient = [*ALONG_ROW, *DOWN]
    data.ImagePositionPatient = list(ORIGIN)
    data.PixelSpacing = [1.3, 0.7]
    data.FrameOfReferenceUID = "1.2.3.4"
    data.PixelData = stored.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def saved(tmp_path: Path, data: Dataset, name: str = "a.dcm") -> Path:
    data.save_as(tmp_path / name, enforce_file_format=True)
    return tmp_path / name


def warned(path: Path) -> str:
    return "; ".join(read(path).source.warnings)


def test_ct_is_in_hounsfield_units_at_its_place(tmp_path: Path) -> None:
    image = read(saved(tmp_path, made(RescaleSlope="1", RescaleIntercept="-1024")))
    np.testing.assert_array_equal(image.array, STORED.astype(int) - 1024)
    assert image.quantity == "HU"
    assert image.array.dtype == np.int16  # 12 stored bits fit
    assert image.source.rescale == (1, -1024)
    assert image.source.modality == "CT"
    assert image.source.bits_stored == 12
    assert image.geometry.frame_of_reference == "1.2.3.4"
    assert image.spacing_mm == pytest.approx((1.3, 0.7))
    # row 5, column 3: five steps down of 1.3 mm, three along the row of 0.7 mm
    expected = ORIGIN + 5 * 1.3 * DOWN + 3 * 0.7 * ALONG_ROW
    np.testing.assert_allclose(image.geometry.to_world([(5, 3)])[0], expected)
    np.testing.assert_allclose(image.geometry.affine_lps_mm[:3, 2], np.cross(ALONG_ROW, DOWN), atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "quantity"),
    [
        ({"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "HU"}, "HU"),
        ({"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "US"}, "arbitrary"),
        ({}, "arbitrary"),
        ({"Modality": "MR", "RescaleSlope": "2", "RescaleIntercept": "0"}, "arbitrary"),
        ({"Modality": "PT", "Units": "GML", "RescaleSlope": "2", "RescaleIntercept": "0"}, "SUVbw"),
        ({"Modality": "PT", "Units": "BQML"}, "activity"),
    ],
)
def test_the_quantity_is_what_the_file_says(tmp_path: Path, changes: dict[str, object], quantity: str) -> None:
    assert read(saved(tmp_path, made(**changes))).quantity == quantity


@pytest.mark.parametrize(("slope", "kind"), [("0.5", np.float32), ("2", np.uint16)])
def test_rescaling_keeps_whole_numbers_whole(tmp_path: Path, slope: str, kind: type) -> None:
    image = read(saved(tmp_path, made(RescaleSlope=slope, RescaleIntercept="3")))
    np.testing.assert_allclose(image.array, STORED * float(slope) + 3)
    assert image.array.dtype in (kind, np.int16)


def test_a_slope_of_zero_is_not_applied(tmp_path: Path) -> None:
    path = saved(tmp_path, made(RescaleSlope="0", RescaleIntercept="5"))
    np.testing.assert_array_equal(read(path).array, STORED)
    assert "unusable" in warned(path)


def test_signed_values(tmp_path: Path) -> None:
    values = (STORED.astype(np.int16) - 1000).astype(np.int16)
    image = read(saved(tmp_path, made(values, PixelRepresentation=1, BitsStored=16, HighBit=15)))
    np.testing.assert_array_equal(image.array, values)


def test_monochrome1_keeps_its_values_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, made(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(read(path).array, STORED)
    assert read(path).source.photometric == "MONOCHROME1"
    assert "darker" in warned(path)


def test_detector_and_calibrated_spacing(tmp_path: Path) -> None:
    bare = {"ImageOrientationPatient": None, "ImagePositionPatient": None, "Modality": "DX"}
    image = read(saved(tmp_path, made(**bare, PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1])))
    assert (image.geometry.kind, image.spacing_mm) == ("detector", (0.2, 0.1))
    assert "magnified" in image.source.warnings[0]
    image = read(saved(tmp_path, made(**bare, PixelSpacing=[0.18, 0.09], ImagerPixelSpacing=[0.2, 0.1])))
    assert image.spacing_mm == pytest.approx((0.18, 0.09))
    assert "corrected for magnification" in image.source.warnings[0]
    image = read(saved(tmp_path, made(**bare, PixelSpacing=[0.0, 0.1])))
    assert image.geometry.kind == "none"
    assert "not positive" in image.source.warnings[0]
    assert read(saved(tmp_path, made(**bare, PixelSpacing=None))).geometry.kind == "none"
    image = read(saved(tmp_path, made(**bare, PixelSpacing=None, NominalScannedPixelSpacing=[0.3, 0.3])))
    assert image.geometry.kind == "detector"


def region(x: float, y: float) -> Dataset:
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = x, y
    return item


def test_ultrasound_spacing_only_when_all_regions_agree(tmp_path: Path) -> None:
    bare = {"ImageOrientationPatient": None, "ImagePositionPatient": None, "PixelSpacing": None, "Modality": "US"}
    one = made(**bare, SequenceOfUltrasoundRegions=Sequence([region(0.01, 0.02)]))
    assert read(saved(tmp_path, one)).spacing_mm == pytest.approx((0.2, 0.1))
    two = made(**bare, SequenceOfUltrasoundRegions=Sequence([region(0.01, 0.02), region(0.5, 0.5)]))
    assert read(saved(tmp_path, two)).geometry.kind == "none"
    assert "different scales" in warned(tmp_path / "a.dcm")


def test_an_orientation_that_is_none(tmp_path: Path) -> None:
    image = read(saved(tmp_path, made(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])))
    assert image.geometry.kind == "detector"
    assert "no valid one" in image.source.warnings[0]


def test_colour_and_palette(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    three = {**eight, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    image = read(saved(tmp_path, made(rgb, **three, PhotometricInterpretation="RGB")))
    np.testing.assert_array_equal(image.array, rgb)
    assert image.channels == ("red", "green", "blue")
    planar = {**three, "PlanarConfiguration": 1}
    path = saved(tmp_path, made(np.moveaxis(rgb, -1, 0).copy(), **planar, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(read(path).array, rgb)
    grey = np.full((6, 4, 3), 128, np.uint8)  # luminance without chrominance
    image = read(saved(tmp_path, made(grey, **three, PhotometricInterpretation="YBR_FULL")))
    np.testing.assert_array_equal(image.array, grey)
    assert image.source.photometric == "YBR_FULL"
    odd = saved(tmp_path, made(rgb, **three, PhotometricInterpretation="HSV"))
    assert "taken as colours" in header(odd).warnings[0]
    table = np.arange(256, dtype=np.uint16)
    luts = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, values in (("Red", table), ("Green", table[::-1]), ("Blue", table * 0 + 9))
        for what, value in (("Descriptor", [256, 0, 16]), ("Data", values.astype("<u2").tobytes()))
    }
    index = np.arange(24, dtype=np.uint8).reshape(6, 4)
    path = saved(tmp_path, made(index, **eight, **luts, PhotometricInterpretation="PALETTE COLOR"))
    np.testing.assert_array_equal(read(path).array[..., 0], index)
    np.testing.assert_array_equal(read(path).array[..., 1], 255 - index)
    assert "palette" in warned(path)


# -- frames ----------------------------------------------------------------------------------------------------------


def group(position: np.ndarray | None, slope: float | None = None) -> Dataset:
    item = Dataset()
    if position is not None:
        item.PlanePositionSequence = Sequence([Dataset()])
        item.PlanePositionSequence[0].ImagePositionPatient = [float(v) for v in position]
    if slope is not None:
        change = Dataset()
        change.RescaleSlope, change.RescaleIntercept, change.RescaleType = str(slope), "-10", "HU"
        item.PixelValueTransformationSequence = Sequence([change])
    return item


def enhanced(positions: list[np.ndarray | None], slopes: list[float] | None = None, **changes: object) -> Dataset:
    stored = np.stack([STORED + i for i in range(len(positions))])
    data = made(stored, NumberOfFrames=len(positions), ImagePositionPatient=None, ImageOrientationPatient=None)
    del data.PixelSpacing
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([Dataset()]), Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [*ALONG_ROW, *DOWN]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.3, 0.7]
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    scales = slopes or [None] * len(positions)
    data.PerFrameFunctionalGroupsSequence = Sequence([group(p, s) for p, s in zip(positions, scales, strict=True)])
    for name, value in changes.items():
        setattr(data, name, value)
    return data


NORMAL = np.cross(ALONG_ROW, DOWN)


def test_frames_with_positions_are_a_volume(tmp_path: Path) -> None:
    step = -2.9 * NORMAL  # against the normal: the third column is what the positions say
    image = read(saved(tmp_path, enhanced([ORIGIN + i * step for i in range(3)])))
    assert image.array.shape == (6, 4, 3)
    np.testing.assert_array_equal(image.array[..., 2], STORED + 2)
    expected = ORIGIN + 5 * 1.3 * DOWN + 3 * 0.7 * ALONG_ROW + 2 * step
    np.testing.assert_allclose(image.geometry.to_world([(5, 3, 2)])[0], expected)
    one = read(saved(tmp_path, enhanced([ORIGIN + i * step for i in range(3)])), member="1")
    np.testing.assert_array_equal(one.array, STORED + 1)
    np.testing.assert_allclose(one.geometry.to_world([(0, 0)])[0], ORIGIN + step)


def test_frames_with_their_own_rescale(tmp_path: Path) -> None:
    places = [ORIGIN + i * NORMAL for i in range(2)]
    path = saved(tmp_path, enhanced(places, [1.0, 0.5]))
    image = read(path)
    assert image.quantity == "HU"
    np.testing.assert_allclose(image.array[..., 0], STORED - 10.0)
    np.testing.assert_allclose(image.array[..., 1], (STORED + 1) * 0.5 - 10)
    np.testing.assert_allclose(read(path, member="1").array, (STORED + 1) * 0.5 - 10)
    same = read(saved(tmp_path, enhanced(places, [1.0, 1.0])))
    assert same.array.dtype == np.int16
    np.testing.assert_array_equal(same.array[..., 1], STORED.astype(int) + 1 - 10)


def test_frames_without_places_and_times_are_counted(tmp_path: Path) -> None:
    path = saved(tmp_path, enhanced([ORIGIN, ORIGIN]))
    image = read(path)
    np.testing.assert_array_equal(image.array, np.stack([STORED, STORED + 1], axis=-1))
    assert image.geometry.kind == "none"
    assert any("counted" in note and "no millimetres" in note for note in image.source.warnings)
    assert read(path, member="1").geometry.kind == "patient"


def test_frames_that_are_no_volume_are_refused_with_a_way_out(tmp_path: Path) -> None:
    uneven = [ORIGIN, ORIGIN + NORMAL, ORIGIN + 3 * NORMAL]
    with pytest.raises(ReadError, match="equally spaced"):
        read(saved(tmp_path, enhanced(uneven)))
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", member="2").array, STORED + 2)
    turned = enhanced([ORIGIN, ORIGIN + NORMAL])
    own = Dataset()
    own.ImageOrientationPatient = [*DOWN, *ALONG_ROW]
    turned.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = Sequence([own])
    with pytest.raises(ReadError, match="different orientation"):
        read(saved(tmp_path, turned))
    for bad in ("3", "-1", "x", "²"):
        with pytest.raises(ReadError, match="no frame"):
            read(saved(tmp_path, enhanced(uneven)), member=bad)


@pytest.mark.parametrize(
    ("timing", "times"),
    [
        ({"FrameTime": "40"}, (0.0, 0.04, 0.08)),
        ({"FrameTimeVector": ["0", "40", "60"]}, (0.0, 0.04, 0.1)),
        ({"CineRate": 10}, (0.0, 0.1, 0.2)),
    ],
)
def test_frames_with_times_are_a_cine(tmp_path: Path, timing: dict[str, object], times: tuple[float, ...]) -> None:
    stored = np.stack([STORED, STORED + 1, STORED + 2])
    bare = {"ImageOrientationPatient": None, "ImagePositionPatient": None, "PixelSpacing": None}
    path = saved(tmp_path, made(stored, NumberOfFrames=3, **bare, **timing))
    image = read(path)
    assert image.time_s == pytest.approx(times)
    assert image.array.shape == (6, 4, 3)
    assert image.geometry.shape == (6, 4)
    np.testing.assert_array_equal(image.array[..., 1], STORED + 1)
    assert info(path).frames == 3


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"Rows": 0}, ReadError, "impossible size"),
        ({"Rows": None}, ReadError, "without Rows"),
        ({"SamplesPerPixel": 7}, ReadError, "impossible size"),
        ({"Rows": 60000, "Columns": 60000}, ReadError, "truncated"),
        ({"Rows": 60000, "Columns": 60000, "NumberOfFrames": "60000"}, LimitError, "no image has"),
        ({"BitsAllocated": 24}, ReadError, "24 bits"),
        ({"PixelData": None}, ReadError, "pixels are missing"),
    ],
)
def test_headers_that_cannot_be_meant(tmp_path: Path, changes, error, what) -> None:
    with pytest.raises(error, match=what):
        read(saved(tmp_path, made(**changes)))


def test_impossible_bits_stored_are_said(tmp_path: Path) -> None:
    path = saved(tmp_path, made(BitsStored=31))
    assert "BitsStored" in header(path).warnings[0]


def test_every_truncation_is_a_sentence(tmp_path: Path) -> None:
    data = saved(tmp_path, made()).read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "b.dcm").write_bytes(data[:length])
        with pytest.raises(ReadError):
            read(tmp_path / "b.dcm")


def test_a_deflated_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = saved(tmp_path, data)
    np.testing.assert_array_equal(read(path).array, STORED)
    monkeypatch.setattr(elements_module, "MAX_HEADER_BYTES", 100)
    data.add_new(0x00091010, "OB", bytes(2**20))
    data.add_new(0x00090010, "LO", "MEDMAP")
    with pytest.raises(LimitError, match="larger than any object"):
        read(saved(tmp_path, data))


def test_a_frame_larger_than_declared_is_refused(tmp_path: Path) -> None:
    import imagecodecs

    big = imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8))
    data = made(BitsAllocated=8, BitsStored=8, HighBit=7)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([big])
    data["PixelData"].is_undefined_length = True
    with pytest.raises(ReadError, match="another size than the header"):
        read(saved(tmp_path, data))


def test_objects_without_an_image_say_what_they_are(tmp_path: Path) -> None:
    data = made(Rows=None, PixelData=None)
    with pytest.raises(ReadError, match="CT Image Storage"):
        read(saved(tmp_path, data))


# -- real files ------------------------------------------------------------------------------------------------------

SAME_CT = "CTImage.dcm_{}.dcm"


@pytest.mark.parametrize(
    "name",
    [
        "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2",
        "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99",
        "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90",
        "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
        "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70",
        "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
        "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2",
        "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
    ],
)
def test_one_image_in_every_lossless_transfer_syntax(shared_data: Path, name: str) -> None:
    folder = shared_data / "dicom" / "cornerstone3d"
    plain = read(folder / SAME_CT.format("LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1"))
    other = read(folder / SAME_CT.format(name))
    np.testing.assert_array_equal(other.array, plain.array)
    assert other.geometry == plain.geometry
    assert other.source.transfer_syntax == name.rsplit("_", 1)[1]


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"])
def test_values_and_place_as_pydicom_has_them(shared_data: Path, name: str) -> None:
    path = shared_data / "dicom" / "pydicom_test_files" / "test_files" / name
    data = pydicom.dcmread(path)
    image = read(path)
    expected = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(image.array, expected)
    np.testing.assert_allclose(image.geometry.affine_lps_mm[:3, 3], [float(v) for v in data.ImagePositionPatient])
    assert image.spacing_mm == pytest.approx([float(v) for v in data.PixelSpacing])


def test_twelve_bit_jpeg_is_not_eight(shared_data: Path) -> None:
    image = read(shared_data / "dicom" / "pydicom_test_files" / "test_files" / "JPGExtended.dcm")
    assert image.array.dtype == np.uint16
    assert image.array.max() > 255


def test_no_file_of_the_collection_raises_anything_else(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "pydicom_test_files"
    counts = {"image": 0, "refused": 0}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size < 300_000):
        try:
            read(path)
        except (ReadError, LimitError):
            counts["refused"] += 1
        else:
            counts["image"] += 1
    assert counts["image"] > 90
    assert counts["refused"] > 5


# -- slides ----------------------------------------------------------------------------------------------------------

SLIDE = np.arange(7 * 11, dtype=np.uint8).reshape(7, 11)  # tiles of 3 × 4 cover 9 × 12
ORIGIN_SLIDE, UP, LEFT = (12.5, 30.25), [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]


def slide(tiles: list[tuple[int, int]], organisation: str) -> Dataset:
    padded = np.pad(SLIDE, ((0, 2), (0, 1)), constant_values=255)
    frames = np.stack([padded[r : r + 3, c : c + 4] for r, c in tiles])
    data = made(frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", Modality="SM", Rows=3, Columns=4,
                ImageOrientationPatient=None, ImagePositionPatient=None, PixelSpacing=None)  # fmt: skip
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.NumberOfFrames, data.PixelData = len(tiles), frames.tobytes() + bytes(frames.size % 2)
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = SLIDE.shape
    data.DimensionOrganizationType, data.ImageOrientationSlide = organisation, [*UP, *LEFT]
    origin, measures, shared = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = ORIGIN_SLIDE
    data.TotalPixelMatrixOriginSequence = Sequence([origin])
    measures.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    if organisation == "TILED_SPARSE":
        groups = []
        for row, column in tiles:
            place, group = Dataset(), Dataset()
            place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix = row + 1, column + 1
            group.PlanePositionSlideSequence = Sequence([place])
            groups.append(group)
        data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return data


TILES = [(r, c) for r in (0, 3, 6) for c in (0, 4, 8)]


def test_tiles_of_a_slide_become_its_picture(tmp_path: Path) -> None:
    shuffled = [TILES[i] for i in (4, 0, 8, 3, 1, 7, 2, 6, 5)]
    for data in (slide(TILES, "TILED_FULL"), slide(shuffled, "TILED_SPARSE")):
        image = read(saved(tmp_path, data))
        np.testing.assert_array_equal(image.array, SLIDE)
        assert image.valid is None
        assert image.geometry.kind == "slide"
        # a row lower is half a millimetre to the left of the slide, a column on a quarter of one up
        np.testing.assert_allclose(image.geometry.to_world([[0, 0], [2, 3]])[:, :2], [[12.5, 30.25], [11.5, 29.5]])
        tile = read(tmp_path / "a.dcm", member="0")
        row, column = np.argwhere(tile.array[0, 0] == SLIDE)[0]
        np.testing.assert_allclose(tile.geometry.to_world([[0, 0]]), image.geometry.to_world([[row, column]]))


def test_an_absent_tile_is_zero_not_measured_and_said(tmp_path: Path) -> None:
    image = read(saved(tmp_path, slide([t for t in TILES if t != (3, 4)], "TILED_SPARSE")))
    there = np.ones(SLIDE.shape, bool)
    there[3:6, 4:8] = False
    np.testing.assert_array_equal(image.array, np.where(there, SLIDE, 0))
    np.testing.assert_array_equal(image.valid, there)
    assert any("no tile" in note for note in image.source.warnings)


def test_overlapping_tiles_hide_no_gap(tmp_path: Path) -> None:
    tiles = [t for t in TILES if t != (3, 4)] + [(0, 1), (0, 2), (6, 1)]
    image = read(saved(tmp_path, slide(tiles, "TILED_SPARSE")))
    assert not image.valid[3:6, 4:8].any()
    assert image.valid.sum() == SLIDE.size - 12
    np.testing.assert_array_equal(image.array[image.valid], SLIDE[image.valid])


def test_slides_that_hold_more_than_one_picture_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path, slide([*TILES, *TILES], "TILED_FULL"))
    with pytest.raises(ReadError, match="several tiles at one place"):
        read(path)
    np.testing.assert_array_equal(read(path, member="10").array, SLIDE[:3, 4:8])
    beyond = slide(TILES, "TILED_SPARSE")
    beyond.TotalPixelMatrixRows = 5
    with pytest.raises(ReadError, match="beyond its picture"):
        read(saved(tmp_path, beyond))
    huge = slide(TILES, "TILED_SPARSE")
    huge.TotalPixelMatrixRows = huge.TotalPixelMatrixColumns = 2**31
    with pytest.raises(LimitError):
        read(saved(tmp_path, huge))


def test_one_plane_of_a_dose_grid_keeps_its_place(tmp_path: Path) -> None:
    planes = np.stack([STORED, STORED + 1, STORED + 2])
    path = saved(tmp_path, made(planes, NumberOfFrames=3, GridFrameOffsetVector=[0, 2.5, 5]))
    whole, one = read(path), read(f"{path}#2")
    np.testing.assert_array_equal(one.array, whole.array[:, :, 2])
    np.testing.assert_allclose(one.geometry.to_world([(0, 0)])[0], whole.geometry.to_world([(0, 0, 2)])[0])
