"""What the command line shows: lines, warnings, a progress bar with the time left; and JSON for machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmap.train import Event

PATIENCE_S = 2.0
LINE_EVERY_S = 15.0


class Screen:
    """One command's output.

    Lines and warnings go to standard output, progress and errors to standard error. With ``json`` standard output
    holds one JSON document and nothing else.

    Args:
        quiet: Only warnings and results.
        json: For machines.
    """

    def __init__(self, quiet: bool = False, json: bool = False) -> None:
        self.quiet, self.json = quiet, json
        self._begin = time.monotonic()
        self._last_line = self._begin
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._stage_begin = self._begin
        self._stage_done = 0.0  # what a resumed stage begins with took no time

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def line(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            self._write(text)

    def result(self, text: str) -> None:
        """A line that stands for the command's result; shown even when quiet."""
        self._write(text)

    def warning(self, text: str) -> None:
        """A warning; always shown."""
        self._write(f"warning: {text}")

    def document(self, value: Any) -> None:
        """The JSON document of ``--json``."""
        self.close()
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.stop()  # it is drawn on standard error, and would run into the line on the terminal
        stream = sys.stderr if self.json else sys.stdout
        stream.write(text + "\n")
        stream.flush()
        if self._bar is not None:
            self._bar.start()

    def hear(self, event: Event) -> None:
        """A training's events."""
        if event.kind == "progress":
            self.progress(event.text, event.done, event.total)
        elif event.kind == "line":
            self.line(event.text)
        else:
            self.warning(event.text)

    def counter(self, what: str) -> Any:
        """A ``(done, of)`` callback that shows progress under a name."""

        def tell(done: float, total: int | None) -> None:
            if total:  # a download may not know its length
                self.progress(what, done, total)

        return tell

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Say what is done when it takes longer than two seconds, and then now and again for how long it has been.

        For what cannot be counted; of the rest ``progress`` says how far it is.
        """
        over = threading.Event()

        def tell() -> None:
            begin = time.monotonic()
            told = over.wait(PATIENCE_S)
            so_far = ""
            while not told:
                sys.stderr.write(f"{text} …{so_far}\n")
                sys.stderr.flush()
                told = over.wait(LINE_EVERY_S)
                so_far = f" {_clock(time.monotonic() - begin)} so far"

        teller = threading.Thread(target=tell, daemon=True)
        if not self.quiet:
            teller.start()
        try:
            yield
        finally:
            over.set()
            if not self.quiet:
                teller.join()

    def progress(self, text: str, done: float, total: float) -> None:
        """How far a stage is; shown after two seconds, as a bar on a terminal and as plain lines elsewhere."""
        now = time.monotonic()
        # another total is another stage: "network 1, epoch 3" counts steps, "network 1, its cases" cases
        stage = f"{text.split(',', maxsplit=1)[0].split(' ', maxsplit=1)[0]} {total}"
        if stage != self._stage:
            self._stage, self._stage_begin, self._stage_done = stage, now, done
        if self.quiet or now - self._begin < PATIENCE_S:
            return
        if sys.stderr.isatty():
            self._show_bar(text, done, total)
        elif now - max(self._last_line, self._stage_begin) >= LINE_EVERY_S:
            self._last_line = now
            left = (now - self._stage_begin) / max(done - self._stage_done, 1e-9) * (total - done)
            sys.stderr.write(f"{text}: {100 * done / max(total, 1):.0f} %, about {_clock(left)} left\n")
            sys.stderr.flush()

    def _show_bar(self, text: str, done: float, total: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True, redirect_stdout=False,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(text, total=total)
        self._bar.update(self._task, description=text, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def duration_s(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h`` to seconds.

    Raises:
        UsageError: Anything else, or nothing at all.

    Example:
        >>> duration_s("10m")
        600.0
    """
    from medmap.errors import UsageError

    number, unit = (text[:-1], text[-1:]) if text[-1:] in "smh" else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < 1e8:
        raise UsageError("a time reads 90s, 10m or 2h", got=repr(text))
    return seconds


def size_bytes(text: str) -> int:
    """``4GiB``, ``512MiB``, ``8G`` to bytes.

    Raises:
        UsageError: Anything else.

    Example:
        >>> size_bytes("4GiB")
        4294967296
    """
    import re

    from medmap.errors import UsageError

    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?B)?\s*", text)
    if match is None:
        raise UsageError("a size reads 4GiB or 512MiB", got=repr(text))
    factor = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}[match[2]]
    return int(float(match[1]) * factor)
