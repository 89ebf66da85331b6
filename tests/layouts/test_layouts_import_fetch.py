"""Importing is whole or not at all; fetching verifies, continues, and refuses what is not the published file."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.errors import DatasetError, LayoutError, ReadError, UsageError
from medmap.layouts import PUBLIC, Public, fetch, fetching, import_dataset, open_dataset
from medmap.read import read_ref


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png")):
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(np.full((5, 6), i, np.uint8)).save(path)
    return tmp_path / "study"


@pytest.mark.parametrize("copy", [False, True])
def test_import_and_open_again(study: Path, tmp_path: Path, copy: bool) -> None:
    data = import_dataset(study, tmp_path / "dest", copy=copy)
    assert [read_ref(data, c.inputs["image"]).array.max() for c in data] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "dest").iterdir()) == ["cases.csv", "dataset.yaml"] + ["images"] * copy
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dest", "study"]
    if copy:
        (tmp_path / "study").rename(tmp_path / "gone")
    (tmp_path / "dest").rename(tmp_path / "moved")
    again = open_dataset(tmp_path / "moved")
    assert read_ref(again, again.cases[2].inputs["image"]).array.max() == 2


def test_an_empty_destination_is_taken_and_any_other_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    import_dataset(study, tmp_path / "dest")
    with pytest.raises(UsageError, match="not empty"):
        import_dataset(study, tmp_path / "dest")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="no folder"):
            import_dataset(study, tmp_path / name)
    with pytest.raises(UsageError, match="NUL"):
        import_dataset(study, "a\0b")


def test_a_failed_import_leaves_nothing(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "b" / "2.png").write_bytes(b"no image at all")
    with pytest.raises(DatasetError, match="no image that can be read"):
        import_dataset(study, tmp_path / "dest", copy=True)
    with pytest.raises(LayoutError):
        import_dataset(study / "a", tmp_path / "dest")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        import_dataset(study, tmp_path / "dest")
    assert [p.name for p in tmp_path.iterdir()] == ["study"]


def test_copying_follows_no_link_out_and_takes_only_images(study: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Pillow.fromarray(np.zeros((5, 6), np.uint8)).save(secret)
    (study / "b" / "9.png").symlink_to(secret)
    with pytest.raises(DatasetError, match="link out of"):
        import_dataset(study, tmp_path / "dest", copy=True)
    assert len(import_dataset(study, tmp_path / "dest")) == 4  # referenced, it stays the owner's business
    (study / "b" / "9.png").unlink()
    (study / "b" / "9.mhd").write_text("x")
    with pytest.raises(DatasetError, match="in another file"):
        import_dataset(study, tmp_path / "copied", copy=True)


def test_copying_absolute_paths_and_masks(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "m" / "cases.csv"
    table.parent.mkdir()
    rows = f"case,image,mask\nx,{study}/a/1.png,{study}/b/1.png\ny,{study}/a/2.png,\n"
    table.write_text(rows)
    data = import_dataset(table, tmp_path / "dest", copy=True)
    assert all(not Path(c.inputs["image"].path).is_absolute() for c in data)
    assert read_ref(data, data["x"].truth.masks[0]).array.max() == 2
    assert read_ref(data, data["y"].inputs["image"]).array.max() == 1


# -- fetching --------------------------------------------------------------------------------------------------------

CONTENT = np.random.default_rng(0).bytes(5 * 2**20 + 123)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; misbehaves on request."""

    seen: list[str | None]
    mode = "good"

    def do_GET(self) -> None:
        type(self).seen.append(self.headers.get("Range"))
        if self.mode == "absent":
            self.send_error(404, "nothing here")
            return
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.mode != "no ranges" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            told = start + 7 if self.mode == "wrong range" else start
            self.send_header("Content-Range", f"bytes {told}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may hang up
            self.wfile.write(body[: len(body) // 2] if self.mode == "breaks off" else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"seen": [], "mode": "good"})
    monkeypatch.setitem(
        PUBLIC,
        "test",
        Public("test.npz", "http://127.0.0.1:1", hashlib.md5(CONTENT).hexdigest(), "none"),  # noqa: S324
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


def test_fetch_over_http(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(
        "test", tmp_path / "new" / "folder", server[0], progress=lambda done, total: told.append((done, total))
    )
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["test.npz"]
    assert fetch("test", path.parent, server[0]) == path
    assert len(server[1].seen) == 1  # what is there and right is not fetched again


def test_fetch_continues_where_it_stopped(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    server[1].mode = "breaks off"
    with pytest.raises(ReadError, match=r"broke off|cannot be fetched"):
        fetch("test", tmp_path, f"{server[0]}/test.npz")
    have = (tmp_path / ".test.npz.part").stat().st_size
    assert 0 < have < len(CONTENT)
    server[1].mode = "good"
    assert fetch("test", tmp_path, f"{server[0]}/test.npz").read_bytes() == CONTENT
    assert server[1].seen == [None, f"bytes={have}-"]


@pytest.mark.parametrize("mode", ["no ranges", "complete"])
def test_fetch_with_a_part_already_there(server: tuple[str, type[_Handler]], tmp_path: Path, mode: str) -> None:
    server[1].mode = mode
    (tmp_path / ".test.npz.part").write_bytes(CONTENT if mode == "complete" else CONTENT[:1000])
    assert fetch("test", tmp_path, server[0]).read_bytes() == CONTENT


def test_what_is_not_the_published_file(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    (tmp_path / ".test.npz.part").write_bytes(b"something else entirely")
    with pytest.raises(ReadError, match="checksum is wrong"):
        fetch("test", tmp_path, server[0])
    assert not list(tmp_path.iterdir())
    (tmp_path / ".test.npz.part").write_bytes(CONTENT[:10])
    server[1].mode = "wrong range"
    with pytest.raises(ReadError, match="another part"):
        fetch("test", tmp_path, server[0])
    server[1].mode = "absent"
    with pytest.raises(ReadError, match="HTTP 404"):
        fetch("test", tmp_path, server[0])
    (tmp_path / "test.npz").write_text("mine")
    with pytest.raises(UsageError, match="another file"):
        fetch("test", tmp_path, server[0])


def test_no_server_and_odd_addresses(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot be fetched"):
        fetch("test", tmp_path)  # nobody listens there
    for bad in ("ftp://example.org/x.npz", "gopher://x"):
        with pytest.raises(UsageError, match="https, http or from a folder"):
            fetch("test", tmp_path, bad)
    with pytest.raises(UsageError, match="unknown public dataset"):
        fetch("imagenet", tmp_path)


def test_fetch_from_a_folder_a_file_or_a_file_address(
    server: tuple[str, type[_Handler]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "test.npz").write_bytes(CONTENT)
    for i, source in enumerate(
        (tmp_path / "share", tmp_path / "share" / "test.npz", (tmp_path / "share").as_uri(), str(tmp_path / "share"))
    ):
        assert fetch("test", tmp_path / str(i), source).read_bytes() == CONTENT
    with pytest.raises(ReadError, match="cannot be read"):
        fetch("test", tmp_path / "x", tmp_path / "absent")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        fetch("test", tmp_path / "y", tmp_path / "share")


def test_the_official_file(shared_data: Path, tmp_path: Path) -> None:
    path = fetch("breastmnist", tmp_path, shared_data / "medmnist")
    assert len(open_dataset(path)) == 780


def test_endless_files_are_cut(server: tuple[str, type[_Handler]], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**21)
    with pytest.raises(ReadError, match="never ends"):
        fetch("test", tmp_path, server[0])
