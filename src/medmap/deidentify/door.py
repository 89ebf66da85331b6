"""The verb: an archive in, its de-identified copy and a report out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medmap.deidentify.archive import Progress, Work, begin_journal, run
from medmap.deidentify.drawn import write_samples
from medmap.deidentify.profile import Profile
from medmap.deidentify.report import Verification, verification, write_report
from medmap.deidentify.secrets import Key, create_key, load_key
from medmap.errors import DataError, MissingToolError, ReadError, UsageError, counted


@dataclass(frozen=True)
class Deidentified:
    """What a run made.

    Args:
        output: The folder of de-identified files.
        key: The key file; whoever holds it can link pseudonyms to patients.
        journal: What was done file by file, and the names of files that were not copied.
        report: The page, or None where none was asked for.
        verification: What was done to every attribute, and what is left.
        samples: A sheet of finished pictures beside the report, readable by its owner alone; None without one.
    """

    output: Path
    key: Path
    journal: Path
    report: Path | None
    verification: Verification
    samples: Path | None = None


def deidentify(  # noqa: PLR0913  (the options of one command)
    source: Path | str,
    output: Path | str,
    *,
    keep: Iterable[str] = (),
    clean: Iterable[str] = (),
    key: Path | str | None = None,
    report: Path | str | None = None,
    workers: int = 1,
    resume: bool = False,
    profile: str = "basic",
    progress: Progress | None = None,
) -> Deidentified:
    """Copy DICOM files without what identifies patients (PS3.15 Annex E), and verify the copy.

    Args:
        source: A folder, a zip or one file; never touched.
        output: The folder to write, new or empty. Files are named by keyed digests; what is no DICOM is not copied.
        keep: Options that retain: ``dates`` or ``dates-modified``, ``patient``, ``device``, ``uids``,
            ``institution``, ``safe-private``.
        clean: Options that clean instead of removing: ``descriptors``, ``graphics``, ``structured``, ``pixels``,
            ``face``.
        key: The project's key file, made where it does not exist; ``OUTPUT.key`` beside the output by default.
        report: Where to write the report (HTML; beside it JSON and, where there are pictures, ``…-samples.html``).
        workers: Number of processes.
        resume: Go on with a run that was stopped.
        profile: ``basic``.
        progress: Called with files done and files in all.

    Raises:
        UsageError: A wrong option, an output in the source or with something in it, a key that others can read or
            that would lie with the data, a report in the place of something else.
        DataError: The source is absent or holds no DICOM file.
        InterruptedRun: Stopped.

    Example:
        ``medmap.deidentify("archive/", "shared/", keep=["dates-modified"], clean=["descriptors"])``
    """
    source, output = Path(source), Path(output)
    asked = Profile.of(name=profile, keep=keep, clean=clean)
    key_path = Path(key) if key is not None else output.with_name(output.name + ".key")
    journal = output.with_name(output.name + ".journal")
    page = None if report is None else Path(report)
    _require_apart(source, output, key_path)
    _require_report(source, page, (key_path, journal))
    if workers < 1:
        raise UsageError("too few workers", got=workers, expected="1 or more")
    _require_new(output, journal, resume=resume)
    with _nothing_left_of_a_refusal(output, journal, key_path):
        secret = _key(key_path, resume=resume)
        output.mkdir(parents=True, exist_ok=True)
        done = begin_journal(journal, asked, secret, resume=resume)
        run(source, Work(output, journal, asked, secret), done, workers, progress)
        if "face" in asked.clean:
            from medmap.deidentify.faces import take_out_faces

            take_out_faces(output, journal)
        found = verification(journal, asked)
        if not found.written and not found.refused:
            got = counted(found.skipped, "other file") if found.skipped else "nothing"
            raise DataError(
                f"{source} holds no DICOM file", got=got, remedy="name the folder, zip or file with the DICOM files"
            )
    sheet = None if page is None else _reported(found, output, journal, page)
    return Deidentified(output, key_path, journal, page, found, sheet)


@contextmanager
def _nothing_left_of_a_refusal(output: Path, journal: Path, key: Path) -> Iterator[None]:
    """Take away what a refused run made where it copied nothing, so that the corrected call finds a clean place.

    A run that was stopped or killed keeps its key and journal: ``--resume`` needs them.
    """
    files = [path for path in (journal, key) if not path.exists()]
    folders = [path for start in (output, key.parent) for path in (start, *start.parents) if not path.exists()]
    try:
        yield
    except (DataError, MissingToolError) as error:
        worker_killed = isinstance(error, ReadError)
        if not worker_killed and journal in files and output.exists() and not any(output.iterdir()):
            for path in files:
                path.unlink(missing_ok=True)
            for folder in sorted(folders, key=lambda path: -len(path.parts)):
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def _reported(found: Verification, output: Path, journal: Path, page: Path) -> Path | None:
    """Write the report and its sheet of samples; the sheet, where there are pictures."""
    page.parent.mkdir(parents=True, exist_ok=True)
    sheet = write_samples(output, journal, _beside(page)[1])
    write_report(found, page, sheet.name if sheet else None)
    return sheet


def _beside(page: Path) -> tuple[Path, Path]:
    """The report as JSON and the sheet of samples, which stand beside the page."""
    return page.with_suffix(".json"), page.with_name(f"{page.stem}-samples.html")


def _key(path: Path, *, resume: bool) -> Key:
    if path.exists():
        return load_key(path)
    if resume:
        raise UsageError(f"the key file {path} of the stopped run is not there", remedy="name it with --key")
    return create_key(path)


def _require_new(output: Path, journal: Path, *, resume: bool) -> None:
    if output.exists() and any(output.iterdir()) and not journal.exists():
        raise UsageError(f"{output} is not empty", remedy="choose another output")
    if not resume and journal.exists():
        raise UsageError(f"an earlier run left {journal}", remedy="go on with --resume, or choose another output")


def _require_report(source: Path, page: Path | None, apart: tuple[Path, ...]) -> None:
    if page is None:
        return
    whole, taken = source.resolve(), [path.resolve() for path in apart]
    for path in (page, *_beside(page)):
        made = path.resolve()
        if made == whole or whole in made.parents:
            raise UsageError("the report would lie in the source", got=page, remedy="name a file outside it")
        if made in taken:
            raise UsageError("the report would take the place of the key or the journal", got=path)
    if page.exists() and page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page} exists and is no report", remedy="name a file that ends in .html")


def _require_apart(source: Path, output: Path, key: Path) -> None:
    if not source.exists():
        raise DataError(f"{source} does not exist", expected="a folder, a zip or a DICOM file")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, not a folder", remedy="choose another place for the output")
    whole, made, secret = source.resolve(), output.resolve(), key.resolve()
    if made == whole or whole in made.parents:
        raise UsageError("the output lies in the source", got=output, remedy="choose a folder outside it")
    if made in whole.parents:
        raise UsageError("the source lies in the output", got=output, remedy="choose another output")
    if made in secret.parents or secret == made:
        raise UsageError(
            "the key would lie with the data it can open", got=key, remedy="name a file outside the output"
        )
    if whole in secret.parents or secret == whole:
        raise UsageError("the key would lie in the source", got=key, remedy="name a file outside the source")
