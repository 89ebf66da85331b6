"""The command ``deidentify``: its words, and what it says afterwards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from medmap.cli.options import Json, Quiet
from medmap.cli.settings import require_file
from medmap.cli.show import Screen
from medmap.errors import UsageError, counted


def deidentify(
    source: Annotated[Path, typer.Argument(help="A folder, a zip or a DICOM file; never touched.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    profile: Annotated[str, typer.Option("--profile", help="basic: PS3.15 Annex E, Basic Profile.")] = "basic",
    keep: Annotated[
        str,
        typer.Option(
            "--keep", help="What stays: dates or dates-modified, patient, device, uids, institution, safe-private."
        ),
    ] = "",
    clean: Annotated[
        str, typer.Option("--clean", help="What is cleaned: descriptors, graphics, structured, pixels, face.")
    ] = "",
    key: Annotated[Path | None, typer.Option("--key", help="The project's key file (default OUTPUT.key).")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write a report: HTML, and JSON beside it.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Number of processes (default: one a core).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy DICOM files without what identifies patients, and verify it; exit code 1 if something is left."""
    from dataclasses import asdict

    from medmap.deidentify import deidentify as make

    if workers is not None and workers < 1:
        raise UsageError("too few workers", got=workers, expected="1 or more")
    if report is not None:
        require_file(report)
    with Screen(quiet, json) as screen:
        made = make(
            source,
            output,
            keep=_words(keep),
            clean=_words(clean),
            key=key,
            report=report,
            workers=workers or os.cpu_count() or 1,
            resume=resume,
            profile=profile,
            progress=screen.counter("de-identifying"),
        )
    found = made.verification
    if json:
        places = {"output": str(output), "key": str(made.key), "report": None if report is None else str(report)}
        screen.document({**places, "clean": found.clean, **asdict(found)})
    else:
        screen.result(f"{counted(found.written, 'file')} of {counted(found.patients, 'patient')} in {output}")
        for row in found.problems:
            screen.result(f"not copied: {row['files']} × {row['reason']}")
        for left in found.residuals:
            where = f"{left['name']} ({left['place']}), {counted(left['files'], 'file')}"
            screen.result(f"left: a {left['kind']} in {where}")
        screen.line(f"key: {made.key} (keep it apart from the data); journal: {made.journal}")
        if report is not None:
            screen.result(f"report: {report}")
    if not found.clean or found.refused:
        raise typer.Exit(1)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
