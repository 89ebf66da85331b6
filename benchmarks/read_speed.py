"""How fast a CT series of 300 slices becomes a volume in HU, and headers and archives are scanned, against others.

A phantom with noise (512 × 512, 12 bits) is written uncompressed, RLE, JPEG-LS, JPEG 2000 and HTJ2K. Each is read by
medmap, SimpleITK, MONAI's PydicomReader and plain pydicom (its own pixel decoding, slices sorted by position), in
turns in one process; the best of the rounds counts. ``same_answer``: the peer's voxels equal medmap's. A peer that
cannot decode a syntax has ``theirs`` null and says why in ``note``. ``cpu_ours_s`` and ``cpu_theirs_s`` are processor
seconds of all threads, which a loaded machine changes less than the time that passes. An archive of many small files
is sorted into studies, and its series are read one by one by their UIDs. Prints one JSON line a comparison
(``name peer ours theirs unit ratio same_answer``); ``ratio`` is theirs / ours: above 1 medmap is faster.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}
Read = Callable[[Path], np.ndarray]


def ct(slices: int, side: int = 512) -> np.ndarray:
    """(slices, rows, columns) of uint16, HU + 1024: a body with lungs, spine and detector noise, air around it."""
    rng = np.random.default_rng(20260101)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    volume = np.empty((slices, side, side), np.uint16)
    for k in range(slices):
        swing = 1 + 0.1 * np.sin(k / 20)
        hu = np.full((side, side), -1000.0)
        hu[(x / 0.85) ** 2 + (y / 0.6 / swing) ** 2 < 1] = 40
        for centre in (-0.38, 0.38):
            hu[((x - centre) / 0.25) ** 2 + ((y + 0.05) / 0.38 / swing) ** 2 < 1] = -850
        hu[x**2 + (y - 0.42) ** 2 < 0.008] = 600
        inside = hu > -990
        hu += np.where(inside, rng.normal(0, 18, hu.shape), rng.normal(0, 4, hu.shape))
        volume[k] = np.clip(np.rint(hu) + 1024, 0, 4095)
    return volume


def write_series(folder: Path, volume: np.ndarray, syntax: str) -> None:
    import imagecodecs
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels.encoders import RLELosslessEncoder

    folder.mkdir()
    encode: dict[str, Callable[[np.ndarray], bytes]] = {
        "JPEG-LS": imagecodecs.jpegls_encode,
        "JPEG 2000": lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
        "HTJ2K": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
        "RLE": lambda a: RLELosslessEncoder.encode(
            a, rows=a.shape[0], columns=a.shape[1], samples_per_pixel=1, bits_allocated=16, bits_stored=12,
            pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1,
        ),
    }  # fmt: skip
    for k, plane in enumerate(volume):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.7.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.1", "2.25.2", "2.25.3"
        ds.Modality, ds.PatientID, ds.PatientName = "CT", "phantom", "Phantom"
        ds.StudyDate, ds.SeriesDescription, ds.Manufacturer = "20260101", "benchmark", "synthetic"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesNumber, ds.InstanceNumber = 1, len(volume) - k
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-180, -180, -300 + 1.25 * k]
        ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 1.25
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        if syntax == "uncompressed":
            ds.PixelData = plane.tobytes()
        else:
            ds.PixelData = encapsulate([bytes(encode[syntax](plane))])
        ds["PixelData"].VR = "OW" if syntax == "uncompressed" else "OB"
        # names are not in the order of the slices
        ds.save_as(folder / f"{(k * 7919) % 100003:06d}.dcm", enforce_file_format=True)


# -- readers, each to (slices, rows, columns) in HU ------------------------------------------------------------------


def by_medmap(folder: Path) -> np.ndarray:
    from medmap.read.dicom.studies import studies

    study = next(studies(folder))
    return np.moveaxis(study.series[0].read().array, 2, 0)


def by_simpleitk(folder: Path) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def by_monai(folder: Path) -> np.ndarray:
    from monai.data import PydicomReader

    reader = PydicomReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    planes = np.moveaxis(np.asarray(array), 2, 0).swapaxes(1, 2)
    return planes if meta["affine"][2][2] > 0 else planes[::-1]  # it sorts by instance number


def by_pydicom(folder: Path) -> np.ndarray:
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    return np.stack(
        [ds.pixel_array.astype(np.int16) * int(ds.RescaleSlope) + int(ds.RescaleIntercept) for ds in slices]
    )


PEERS: dict[str, Read] = {"SimpleITK": by_simpleitk, "MONAI PydicomReader": by_monai, "pydicom": by_pydicom}


def timed(read: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = read()
    return time.perf_counter() - begin, found


def compare_series(folder: Path, syntax: str, truth: np.ndarray, rounds: int) -> None:
    """One line a peer: all take turns in each round."""
    best: dict[str, float] = {}
    cpu: dict[str, float] = {}
    same: dict[str, bool] = {}
    notes: dict[str, str] = {}
    for _ in range(rounds):
        for name, read in {"medmap": by_medmap, **PEERS}.items():
            if name in notes:
                continue
            busy = time.process_time()
            try:
                took, array = timed(lambda read=read: read(folder))
            except Exception as error:  # noqa: BLE001  (a peer's refusal is the answer here)
                notes[name] = " ".join(str(error).split())[:120]
                continue
            busy = time.process_time() - busy
            best[name], cpu[name] = min(took, best.get(name, took)), min(busy, cpu.get(name, busy))
            same[name] = array.shape == truth.shape and bool(np.array_equal(array, truth))
            del array
    assert same.get("medmap"), f"medmap read {syntax} wrongly: {notes}"
    for peer in PEERS:
        theirs = best.get(peer)
        row: dict[str, Any] = {
            "name": f"read: {len(truth)} slices of CT, {syntax}",
            "peer": peer,
            "ours": round(best["medmap"], 3),
            "theirs": None if theirs is None else round(theirs, 3),
            "unit": "s",
            "ratio": None if theirs is None else round(theirs / best["medmap"], 2),
            "same_answer": same.get(peer),
            "cpu_ours_s": round(cpu["medmap"], 3),
            "cpu_theirs_s": round(cpu[peer], 3) if peer in cpu else None,
        }
        if peer in notes:
            row["note"] = notes[peer]
        print(json.dumps(row), flush=True)


def compare_scans(folder: Path, rounds: int) -> None:
    """Headers alone: pydicom of everything before the pixels, and of the same attributes as medmap."""
    import pydicom

    from medmap.read.dicom.attributes import ATTRIBUTES
    from medmap.read.dicom.scan import scan

    paths, tags = sorted(folder.iterdir()), list(ATTRIBUTES)
    ways: dict[str, Callable[[], Any]] = {
        "medmap": lambda: [scan(p) for p in paths],
        "pydicom stop_before_pixels": lambda: [pydicom.dcmread(p, stop_before_pixels=True) for p in paths],
        "pydicom specific_tags": lambda: [
            pydicom.dcmread(p, stop_before_pixels=True, specific_tags=tags) for p in paths
        ],
    }
    best: dict[str, float] = {}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            took, found[name] = timed(way)
            best[name] = min(took, best.get(name, took))
    ours = [(s.values["SOPInstanceUID"], s.values["ImagePositionPatient"]) for s in found["medmap"]]
    for peer in list(ways)[1:]:
        theirs = [(str(ds.SOPInstanceUID), tuple(map(float, ds.ImagePositionPatient))) for ds in found[peer]]
        line(f"scan: {len(paths)} headers", peer, best["medmap"], best[peer], ours == theirs)


def write_archive(folder: Path, files: int) -> list[str]:
    """Series of 100 small slices, each in a folder of its own; their UIDs."""
    write_series(folder.parent / "one", ct(100, 16), "uncompressed")
    slices = {path.name: path.read_bytes() for path in (folder.parent / "one").iterdir()}
    names = [f"2.{1000 + n}" for n in range(max(1, files // 100))]  # as long as the UID that they replace
    for name in names:
        (folder / name).mkdir(parents=True)
        for file, content in slices.items():
            changed = content.replace(b"2.25.2", name.encode()).replace(b"2.25.7", name.encode())
            (folder / name / file).write_bytes(changed)
    return names


def compare_archive(folder: Path, files: int, rounds: int) -> None:
    """All headers once, against pydicom; then the series one by one, against reading each from its folder."""
    import pydicom

    import medmap as mm

    names = write_archive(folder, files)

    def ours() -> dict[str, int]:
        return {series.uid: len(series.instances) for study in mm.studies(folder) for series in study.series}

    def theirs() -> dict[str, int]:
        return dict(
            Counter(str(pydicom.dcmread(p, stop_before_pixels=True).SeriesInstanceUID) for p in folder.rglob("*.dcm"))
        )

    best = [float("inf"), float("inf")]
    found: list[Any] = [None, None]
    for _ in range(rounds):
        for number, way in enumerate((ours, theirs)):
            took, found[number] = timed(way)
            best[number] = min(took, best[number])
    line(f"sort: an archive of {files} files", "pydicom stop_before_pixels", best[0], best[1], found[0] == found[1])
    mm.read(f"{folder}#{names[0]}")  # the archive is known from here on
    took = [timed(lambda n=name: mm.read(f"{folder}#{n}").array) for name in names]
    others = [timed(lambda n=name: by_pydicom(folder / n)) for name in names]
    same = all(np.array_equal(np.moveaxis(a, 2, 0), b) for (_, a), (_, b) in zip(took, others, strict=True))
    medians = [sorted(t for t, _ in each)[len(each) // 2] for each in (took, others)]
    line(f"read: a series of 100 slices in an archive of {files} files", "pydicom", *medians, same)


def line(name: str, peer: str, ours: float, theirs: float, same: bool) -> None:
    row = {"name": name, "peer": peer, "ours": round(ours, 4), "theirs": round(theirs, 4), "unit": "s",
           "ratio": round(theirs / ours, 2), "same_answer": same}  # fmt: skip
    print(json.dumps(row), flush=True)


def main() -> None:
    """Make the series, read them, print."""
    parser = argparse.ArgumentParser(description="reading DICOM series")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*SYNTAXES, "scan", "archive"], action="append")
    parser.add_argument("--files", type=int, default=20_000, help="of the archive")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    volume = ct(asked.slices)
    truth = volume.astype(np.int16) - 1024
    with tempfile.TemporaryDirectory() as room:
        for number, syntax in enumerate(SYNTAXES):
            wanted = asked.only is None or syntax in asked.only
            scan_too = number == 0 and (asked.only is None or "scan" in asked.only)
            if not (wanted or scan_too):
                continue
            folder = Path(room) / str(number)
            write_series(folder, volume, syntax)
            if scan_too:
                compare_scans(folder, asked.rounds)
            if wanted:
                compare_series(folder, syntax, truth, asked.rounds)
            for path in folder.iterdir():
                path.unlink()
        if asked.only is None or "archive" in asked.only:
            compare_archive(Path(room) / "archive", asked.files, min(asked.rounds, 2))


if __name__ == "__main__":
    main()
