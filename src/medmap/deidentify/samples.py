"""A sheet of samples: what a person looks at before de-identified pictures leave."""

from __future__ import annotations

import base64
import html
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, UsageError
from medmap.read.text import TextBox

LARGEST = 700  # pixels of a picture's longer side on the sheet: large enough to read what was overlooked
_STYLE = """
:root{color-scheme:light dark;--line:#8885;--soft:#8881;--mark:#ff5b2e}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1.5rem}
h1{margin:0 0 .3rem}p{margin:.2rem 0 1.2rem;max-width:70ch}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1rem;align-items:start}
figure{margin:0;padding:.7rem;background:var(--soft);border:1px solid var(--line);border-radius:6px}
figure.wide{grid-column:span 2}figure div{display:flex;gap:.6rem}
span{position:relative;display:block;flex:1 1 0;min-width:0}img{width:100%;display:block;background:#000}
i{position:absolute;box-sizing:border-box;border:1.5px solid var(--mark)}
figcaption{margin-top:.5rem;overflow-wrap:anywhere;font:12px/1.4 ui-monospace,monospace}
small{font:14px/1.4 system-ui,sans-serif;display:block;margin-bottom:.1rem}
"""


@dataclass(frozen=True)
class Sample:
    """One picture of the sheet.

    Args:
        name: A pseudonym or a new file name; never the patient's.
        after: (rows, columns) or (rows, columns, 3) as it leaves.
        boxes: What was blacked out.
        note: What was decided, in a sentence without identifiers.
        before: The picture as it came; shown only when asked for, since it identifies.
    """

    name: str
    after: NDArray[Any]
    boxes: Sequence[TextBox] = ()
    note: str = ""
    before: NDArray[Any] | None = None


def sample_sheet(
    items: Iterable[Sample], path: str | Path, *, show_before: bool = False, replace: bool = False
) -> Path:
    """Write an HTML page that needs nothing but itself: thumbnails with frames around what was blacked out.

    Args:
        items: Pictures, in the order of the sheet.
        path: A new ``.html`` file, readable by its owner alone.
        replace: Take the place of an earlier sheet.
        show_before: Show the pictures before cleaning too; then the sheet itself identifies, and says so.

    Raises:
        UsageError: The file exists or cannot be written.
        DataError: Something that is no picture.
    """
    figures = [_figure(item, show_before) for item in items]
    warning = (
        "<p><strong>This sheet shows pictures before cleaning: it identifies patients and must not leave.</strong></p>"
        if show_before
        else ""
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sample sheet</title><style>{_STYLE}</style>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<h1>Sample sheet</h1><p>{_counted(len(figures), 'picture')} as they leave. Orange frames show what was "
        "blacked out. Look for names, numbers, dates and faces that are still there.</p>"
        f"{warning}<main>{''.join(figures)}</main></html>"
    )
    path = Path(path)
    if replace:
        with suppress(FileNotFoundError):
            path.unlink()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} exists", remedy="choose another name") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written", got=error.strerror or str(error)) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(page)
    return path


def _figure(item: Sample, show_before: bool) -> str:
    pictures = [_framed(item.after, item.boxes)]
    both = show_before and item.before is not None
    if both and item.before is not None:
        pictures.insert(0, _framed(item.before, item.boxes))
    count = len(item.boxes)
    done = "nothing blacked out" if not count else f"{_counted(count, 'place')} blacked out"
    said = html.escape(f"{item.note}; {done}" if item.note else done)
    return (
        f"<figure{' class=wide' if both else ''}><div>{''.join(pictures)}</div>"
        f"<figcaption><small>{said}</small>{html.escape(item.name)}</figcaption></figure>"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _framed(picture: NDArray[Any], boxes: Sequence[TextBox]) -> str:
    if picture.ndim not in (2, 3) or 0 in picture.shape or picture.dtype.kind not in "uif":
        raise DataError("a sample is a picture", got=f"{picture.dtype} of shape {picture.shape}")
    rows, columns = picture.shape[:2]
    frames = "".join(
        f'<i style="left:{100 * b.column0 / columns:.2f}%;top:{100 * b.row0 / rows:.2f}%;'
        f'width:{100 * (b.column1 - b.column0) / columns:.2f}%;height:{100 * (b.row1 - b.row0) / rows:.2f}%"></i>'
        for b in boxes
    )
    data = base64.b64encode(_png(_thumbnail(picture))).decode()
    return f'<span><img alt="" src="data:image/png;base64,{data}">{frames}</span>'


def _thumbnail(picture: NDArray[Any]) -> NDArray[np.uint8]:
    step = -(-max(picture.shape[:2]) // LARGEST)
    rows, columns = (n // step * step for n in picture.shape[:2])
    values = picture[:rows, :columns].astype(np.float32)
    # areas averaged, so that thin letters do not vanish between the pixels
    small = values.reshape(rows // step, step, columns // step, step, *values.shape[2:]).mean(axis=(1, 3))
    if picture.dtype == np.uint8:
        return np.asarray(np.rint(small), np.uint8)
    # a few outliers would leave a CT grey on grey; painted ink lies at the ends and stays there
    low, high = (float(v) for v in np.percentile(small, (0.5, 99.5)))
    if not high > low:
        low, high = float(small.min()), float(small.max())
    return np.asarray(np.clip((small - low) * (255 / max(high - low, 1e-6)), 0, 255), np.uint8)


def _png(picture: NDArray[np.uint8]) -> bytes:
    """An 8-bit PNG (W3C PNG, section 11): header, one compressed stream of unfiltered rows, end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns = picture.shape[:2]
    lines = np.ascontiguousarray(picture).reshape(rows, -1)
    stream = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2 if picture.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(stream)) + chunk(b"IEND", b"")
