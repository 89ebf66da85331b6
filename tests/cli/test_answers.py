"""``predict``: a zip, an interruption, a small memory."""

from __future__ import annotations

import csv
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow

from medmap import phantom
from medmap.cli import run as medmap
from medmap.errors import LimitError, ReadError
from medmap.read import archive
from medmap.read.archive import unpacked


def png(value: int) -> bytes:
    data = io.BytesIO()
    Pillow.fromarray(np.full((16, 16), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "index.json").read_text()))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.png").write_bytes(png(50 * n))
    return folder


# ------------------------------------------------------------------------------------------------------------ zips


def test_a_zip_answers_like_its_folder(world: Path, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for n in range(4):
            file.write(images / f"{n}.png", f"part{n % 2}/{n}.png")
        file.write(images / "0.png", "part1/0.png")
        file.writestr("part0/broken.png", b"\x89PNG\r\n\x1a\n and nothing more")
        file.writestr("notes.txt", "no image")
        file.writestr("__MACOSX/part0/._0.png", "no image")
        file.mkdir("empty")
    assert medmap(["predict", str(world / "run"), str(path), "-o", str(tmp_path / "a")]) == 1
    rows = {row["case"]: row for row in index_of(tmp_path / "a")["cases"]}
    assert sorted(rows) == [
        "part0/0.png",
        "part0/2.png",
        "part0/broken.png",
        "part1/0.png",
        "part1/1.png",
        "part1/3.png",
    ]
    assert rows["part0/2.png"]["input"] == f"{path}#part0/2.png"
    assert f"{path}#part0/broken.png" in rows["part0/broken.png"]["error"]
    assert "medmap-predict-" not in json.dumps(rows), "the temporary folder is nobody's business"
    assert medmap(["predict", str(world / "run"), str(images), "-o", str(tmp_path / "b")]) == 0
    plain = {row["case"]: row for row in index_of(tmp_path / "b")["cases"]}
    for n in range(4):
        assert rows[f"part{n % 2}/{n}.png"]["outputs"] == plain[f"{n}.png"]["outputs"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Two CT studies of one slice each, in a folder a patient."""
    made = phantom.classification(2, seed=3, shape=(16, 16))
    phantom.write_study(tmp_path / "made", made, format="dicom")
    for n, file in enumerate(sorted((tmp_path / "made").rglob("*.dcm"))):
        folder = tmp_path / "studies" / f"study.{n}"
        folder.mkdir(parents=True)
        file.rename(folder / "image.dcm")
    return tmp_path / "studies"


def test_a_zip_of_studies_and_folders_of_studies_are_read_as_series(world: Path, studies: Path, tmp_path: Path) -> None:
    files = sorted(studies.rglob("*.dcm"))
    path = tmp_path / "studies.zip"
    with zipfile.ZipFile(path, "w") as file:
        for one in files:
            file.write(one, f"export/{one.relative_to(studies)}")
    assert medmap(["predict", str(world / "run"), str(path), "-o", str(tmp_path / "a")]) in (0, 1)
    rows = index_of(tmp_path / "a")["cases"]
    assert [row["case"] for row in rows] == ["P0001", "P0002"]
    assert [row["input"].partition("#")[0] for row in rows] == [str(path)] * 2
    folders = [str(file.parent) for file in files]
    assert len({row["input"] for row in rows}) == 2
    assert medmap(["predict", str(world / "run"), *folders, "-o", str(tmp_path / "b")]) in (0, 1)
    rows = index_of(tmp_path / "b")["cases"]
    assert [row["case"] for row in rows] == ["study.0", "study.1"]


def written(path: Path, members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            file.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "name", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:/x.png", "C:\\x.png", "\\\\host\\x.png", "./."]
)
def test_a_name_outside_is_refused(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.zip", {"good.png": png(1), name: png(2)})
    with pytest.raises(ReadError, match="outside itself"):
        unpacked(path, tmp_path / "room")
    assert not (tmp_path / "room").exists(), "not even the good one is unpacked"


def test_links_doubles_and_odd_members_are_refused(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    def other(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_BZIP2

    refused = {
        "a link": written(tmp_path / "link.zip", {"x.png": b"/etc/passwd"}, link),
        "two files of one name": written(tmp_path / "double.zip", {"a/x.png": b"1", "a//x.png": b"2"}),
        "a file inside a file": written(tmp_path / "inside.zip", {"a": b"1", "a/x.png": b"2"}),
        "an unusual way": written(tmp_path / "bzip2.zip", {"x.png": b"1"}, other),
    }
    secret = written(tmp_path / "secret.zip", {"x.png": b"1"})
    data = bytearray(secret.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    secret.write_bytes(data)
    refused["encrypted"] = secret
    for said, path in refused.items():
        with pytest.raises(ReadError, match=said):
            unpacked(path, tmp_path / "room")
    assert not (tmp_path / "room").exists()


def test_a_zip_too_large_or_too_tight_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = written(tmp_path / "bomb.zip", {"x.png": bytes(2**20)})
    monkeypatch.setattr(archive, "RATIO_FREE_BYTES", 2**19)
    with pytest.raises(LimitError, match="far more than images"):
        unpacked(bomb, tmp_path / "room")
    monkeypatch.setattr(archive, "MAX_BYTES", 2**20 - 1)
    with pytest.raises(LimitError, match="too large"):
        unpacked(bomb, tmp_path / "room")
    monkeypatch.setattr(archive, "MAX_MEMBERS", 0)
    with pytest.raises(LimitError, match="too many"):
        unpacked(bomb, tmp_path / "room")


def test_a_zip_that_lies_about_its_size_is_no_way_around(tmp_path: Path) -> None:
    path = written(tmp_path / "lie.zip", {"x.png": bytes(2**20)})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ReadError, match="not a whole zip"):
        unpacked(path, tmp_path / "room")
    assert (tmp_path / "room" / "x.png").stat().st_size <= 100


@pytest.mark.parametrize("cut", [0, 10, 100, -1])
def test_a_damaged_zip_is_code_3(cut: int, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "cut.zip", {"x.png": png(3)})
    path.write_bytes(path.read_bytes()[:cut])
    assert medmap(["predict", str(world / "run"), str(path), "-o", str(tmp_path / "out")]) == 3
    assert "not a whole zip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_zip_without_images_is_code_2(world: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "notes.zip", {"notes.txt": b"x"})
    assert medmap(["predict", str(world / "run"), str(path), "-o", str(tmp_path / "out")]) == 2


# ---------------------------------------------------------------------------------------------------- going on


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C after so many answers; returns a list that grows by one a case answered."""
    import importlib

    room = importlib.import_module("medmap.predict")
    real = room.predict_cases
    answered: list[int] = []

    def stopped(*args: Any, **words: Any) -> Any:
        for answer in real(*args, **words):
            if len(answered) == count:
                raise KeyboardInterrupt
            answered.append(1)
            yield answer

    monkeypatch.setattr(room, "predict_cases", stopped)
    return answered


def test_an_interrupted_call_goes_on(
    world: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    call = ["predict", str(world / "run"), str(images)]
    assert medmap([*call, "-o", str(whole)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        assert medmap([*call, "-o", str(out)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["000000.json", "000001.json", "000002.json"]
    before = [(out / f"00000{n}.json").stat().st_mtime_ns for n in range(3)]
    assert medmap([*call, "-o", str(out)]) == 2, "without --resume the folder is in use"
    with pytest.MonkeyPatch.context() as patch:
        answered = interrupt_after(99, patch)
        assert medmap([*call, "-o", str(out), "--resume"]) == 0
    assert len(answered) == 2, "finished cases are not answered again"
    assert [(out / f"00000{n}.json").stat().st_mtime_ns for n in range(3)] == before
    assert index_of(out) == index_of(whole)
    assert (out / "scores.csv").read_text() == (whole / "scores.csv").read_text()
    assert medmap([*call, "-o", str(out), "--resume"]) == 0, "a finished one is finished"
    assert index_of(out) == index_of(whole)


def test_going_on_with_other_images_answers_them(world: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = str(world / "run")
    assert medmap(["predict", run, str(images / "1.png"), "-o", str(out)]) == 0
    first = (out / "000000.json").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(images / "4.png", other / "1.png")  # the same name, another image
    assert medmap(["predict", run, str(images / "0.png"), str(other / "1.png"), "-o", str(out), "--resume"]) == 0
    rows = index_of(out)["cases"]
    assert [row["case"] for row in rows] == ["0.png", "1.png"]
    assert rows[1]["input"] == str(other / "1.png")
    assert (out / "000000.json").read_bytes() == first, "an answer is not overwritten by another case's"
    assert len({row["files"][0] for row in rows} - {"000000.json"}) == 2


def test_answers_of_another_bundle_are_refused(
    world: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "out", str(world / "run")
    assert medmap(["predict", run, str(images), "-o", str(out)]) == 0
    both = ["predict", run, f"{run}/bundle", str(images), "-o", str(out), "--resume"]
    assert medmap(both) == 2
    assert "another bundle" in capsys.readouterr().err
    (out / "index.json").unlink()
    assert medmap(both) == 2, "the answers themselves say whose they are"
    assert "another bundle" in capsys.readouterr().err
    for text in ("{", "[]"):
        (out / "000000.json").write_text(text)
        assert medmap(["predict", run, str(images), "-o", str(out), "--resume"]) == 2
        assert "no answer of medmap's" in capsys.readouterr().err


def test_resume_begins_where_nothing_was_begun(world: Path, images: Path, tmp_path: Path) -> None:
    assert medmap(["predict", str(world / "run"), str(images), "-o", str(tmp_path / "out"), "--resume"]) == 0
    assert len(index_of(tmp_path / "out")["cases"]) == 5


# ------------------------------------------------------------------------------------------------------- memory


def test_memory_limits_the_batch_and_not_the_answers(world: Path, images: Path, tmp_path: Path) -> None:
    import importlib

    room = importlib.import_module("medmap.predict.scores")
    from medmap.bundle import Bundle

    with room.Predictor(Bundle.load(world / "run"), "torch") as predictor:
        voxels = 16 * 16
        assert room._batch_size([predictor]) == 256
        assert room._batch_size([predictor], 10 * voxels * room.BYTES_PER_VOXEL) == 10
        assert room._batch_size([predictor], 1) == 1
    found = []
    for memory in ("256MiB", "4GiB"):
        out = tmp_path / memory
        assert medmap(["predict", str(world / "run"), str(images), "-o", str(out), "--memory", memory]) == 0
        found.append(list(csv.reader((out / "scores.csv").read_text().splitlines())))
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------------------- DICOM in and out


def dicom_studies(folder: Path, count: int = 2) -> Path:
    cases = phantom.classification(count, seed=5, shape=(32, 32))
    phantom.write_study(folder, cases, format="dicom")
    return folder / "images"


def test_a_folder_of_studies_gets_a_report_beside_each_answer(world: Path, tmp_path: Path) -> None:
    studies = dicom_studies(tmp_path / "study")
    out = tmp_path / "out"
    words = ["predict", str(world / "run"), str(studies), "-o", str(out), "--format", "json,dicom-sr"]
    assert medmap(words) == 0
    rows = index_of(out)["cases"]
    assert [row["case"] for row in rows] == ["P0001", "P0002"]
    for row in rows:
        (name,) = [name for name in row["files"] if name.endswith(".sr.dcm")]
        report = pydicom.dcmread(out / name)
        source = pydicom.dcmread(row["input"])
        assert report.Modality == "SR"
        assert report.PatientID == source.PatientID
        assert report.StudyInstanceUID == source.StudyInstanceUID
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert medmap([*words, "--resume"]) == 0
    assert index_of(out)["cases"] == rows


def test_a_format_that_does_not_fit_is_said_and_the_answer_stays(
    world: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(world / "run"), str(images), "-o", str(out), "--format", "json,csv,dicom-sr"]
    assert medmap(words) == 1
    told = capsys.readouterr().out
    assert "warning: dicom-sr was not written for 5 cases; 0.png: " in told
    assert "5 cases answered, 5 without dicom-sr, 0 failed" in told
    rows = index_of(out)["cases"]
    for row in rows:
        assert row["error"] is None
        assert list(row["unwritten"]) == ["dicom-sr"]
        assert any("dicom-sr was not written" in text for text in row["warnings"])
        assert row["outputs"]
        assert len(row["files"]) == 1
    assert len((out / "scores.csv").read_text().splitlines()) == 6, "an answer is in the table all the same"
    assert medmap([*words, "--resume"]) == 1, "what is missing is still missing"
    assert index_of(out)["cases"] == rows


def test_a_case_of_which_nothing_could_be_written_has_failed(
    world: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert medmap(["predict", str(world / "run"), str(images), "-o", str(out), "--format", "dicom-sr"]) == 1
    assert "0 cases answered, 5 failed" in capsys.readouterr().out
    assert all("dicom-sr was not written" in row["error"] for row in index_of(out)["cases"])


def test_formats_that_medmap_does_not_know_are_refused(world: Path, images: Path, tmp_path: Path) -> None:
    assert medmap(["predict", str(world / "run"), str(images), "-o", str(tmp_path / "x"), "--format", "bmp"]) == 2
