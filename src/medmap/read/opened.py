"""What every reader of a format gives: all that the header says, and a way to the pixels that was not yet taken.

The split lets one door (``door.py``) do for all formats what must never be forgotten: estimate the size before a byte
is allocated, turn a library's exception into one sentence, and look for values that are no numbers.
"""

from __future__ import annotations

import logging
import struct
import threading
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medmap.errors import LimitError, MedmapError, ReadError
from medmap.geometry import Geometry
from medmap.image import Quantity, Source

# One image may take this much memory unless the caller says otherwise.
DEFAULT_LIMIT_BYTES = 8 * 2**30

# What decoders of files that others wrote are known to raise. They are never let through, and never swallowed:
# each becomes a ReadError that keeps its cause.
FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Opened:
    """An image file whose header was read.

    Args:
        geometry: Where the voxels are.
        dtype: Type of the voxels that ``pixels`` gives.
        pixels: Decodes; gets a list to which it may add sentences about what was odd, and gives the array in
            ``Image``'s order of axes.
        quantity: What the numbers are.
        channels: Names of the channels.
        time_s: Times of the frames, in seconds, or None.
        source: Where it came from.
        working_bytes: Memory that decoding needs beyond the array itself.
        measured: Of the array that ``pixels`` gave, where something was measured (a mask of the geometry's shape), or
            None where everything was.
    """

    geometry: Geometry
    dtype: np.dtype[Any]
    pixels: Callable[[list[str]], NDArray[Any]]
    quantity: Quantity = "unknown"
    channels: tuple[str, ...] = ("image",)
    time_s: tuple[float, ...] | None = None
    source: Source = field(default_factory=Source)
    working_bytes: int = 0
    measured: Callable[[NDArray[Any]], NDArray[np.bool_] | None] | None = None

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of the array: spatial axes, then time, then channels when there are several."""
        time = () if self.time_s is None else (len(self.time_s),)
        return (*self.geometry.shape, *time, *((len(self.channels),) if len(self.channels) > 1 else ()))

    @property
    def nbytes(self) -> int:
        """Bytes that reading the pixels takes."""
        return bytes_of(self.array_shape, self.dtype) + self.working_bytes


def bytes_of(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Bytes of an array that need not exist yet; never overflows.

    Example:
        >>> bytes_of((2**40, 2**40), np.uint16) == 2**81
        True
    """
    count = 1
    for n in shape:
        count *= int(n)
    return count * np.dtype(dtype).itemsize


def require_room(needed: int, limit_bytes: int, what: str) -> None:
    """Refuse to allocate more than allowed.

    Raises:
        LimitError: ``needed`` exceeds ``limit_bytes``.
    """
    if needed > limit_bytes:
        raise LimitError(
            f"{what} declares more data than may be allocated",
            got=_gib(needed),
            expected=f"at most {_gib(limit_bytes)}",
            remedy="if the file is sound, call read with a larger limit_bytes",
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**20 else f"{count} bytes"


@contextmanager
def at_the_door(path: Path | str, what: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into one ``ReadError`` (``LimitError`` for lack of memory)."""
    try:
        yield
    except MedmapError:
        raise
    except FileNotFoundError as error:
        raise ReadError(f"{path} does not exist") from error
    except PermissionError as error:
        raise ReadError(f"{path} may not be read", remedy="ask for read permission on it") from error
    except MemoryError as error:
        raise LimitError(f"{path} needs more memory than this machine has") from error
    except FOREIGN_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ReadError(
            f"{path} is damaged, truncated or no {what} that can be read",
            got=reason,
            remedy="compare it with the original file and copy it again",
        ) from error


_WARNINGS_LOCK = threading.RLock()


class _Listener(logging.Handler):
    """Keeps what a library logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.sentences.append(record.getMessage())


@contextmanager
def heard(notes: list[str], *loggers: str) -> Iterator[None]:
    """Collect a library's warnings, and what the named loggers say, as sentences instead of on the screen.

    The interpreter's warning filters belong to all threads, hence the lock.
    """
    listener = _Listener()
    with _WARNINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = [(log, log.propagate) for log in map(logging.getLogger, loggers)]
        for log, _ in before:
            log.addHandler(listener)
            log.propagate = False
        try:
            yield
        finally:
            for log, propagate in before:
                log.removeHandler(listener)
                log.propagate = propagate
            for sentence in (*(str(item.message) for item in caught), *listener.sentences):
                text = " ".join(sentence.split())[:300]
                if text not in notes:
                    notes.append(text)
