"""Every error medmap raises on purpose, and the exit code the command line gives it.

::

    MedmapError                 70  a defect of medmap's own, unless a branch below says otherwise
    ├── UsageError               2  the call itself is wrong: a missing option, an output that exists
    ├── DataError                3  data that cannot be used
    │   ├── ReadError               a file that is unreadable, truncated or not what it claims to be
    │   ├── LimitError              a declared or unpacked size beyond what may be allocated
    │   ├── GeometryError           grids that do not match, a millimetre asked of an image that has none
    │   ├── LayoutError             a folder or table in no known layout
    │   ├── DatasetError            a dataset whose parts contradict each other
    │   │   └── BoxError            a box that cannot be meant so; ``medmap check`` lists all of them
    │   └── NotFiniteError          a loss or a score that is NaN or infinite; names the cases of the batch
    ├── ConfigError              4  run.yaml, dataset.yaml or an override that is wrong
    │   ├── SizeError               an image size that a network cannot take
    │   └── WeightsError            starting weights that are absent or do not fit
    ├── BundleError              5  a bundle that is changed, incomplete, unknown or too new
    ├── MissingExtraError        6  an optional dependency that is not installed
    ├── MissingToolError         6  a program of the operating system that is not installed
    ├── InterruptedRun         130  stopped by the user; the state is saved
    └── ConformanceError        70  a task or reader that breaks its protocol (``medmap.testing``)

    MedmapWarning                   what a user should read before trusting a result
    ├── LeakageWarning              the same patient or image stands in two splits
    └── QualityWarning              something odd about the data that does not stop the work

A message says what is wrong, the value received, the value expected and the remedy; it names a case by its
pseudonym and never a patient.
"""

from __future__ import annotations


class MedmapError(Exception):
    """The root of the tree.

    Args:
        what: One sentence: what is wrong.
        got: The value received, as a person would write it.
        expected: The value expected.
        remedy: What the user can do about it.
        case: The case's identifier (a pseudonym) when one case is to blame.

    Example:
        >>> str(MedmapError("the image has no spacing", got="a PNG", remedy="give a DICOM or NIfTI file"))
        'the image has no spacing: got a PNG. Remedy: give a DICOM or NIfTI file.'
    """

    exit_code = 70

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
        case: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.remedy, self.case = what, got, expected, remedy, case
        super().__init__(self._sentence())

    def __reduce__(self) -> tuple[object, ...]:
        # whole across processes, also where a branch takes other arguments
        return MedmapError.__new__, (type(self), *self.args), self.__dict__

    def _sentence(self) -> str:
        text = self.what if self.case is None else f"case {self.case}: {self.what}"
        details = [f"got {self.got}"] if self.got is not None else []
        if self.expected is not None:
            details.append(f"expected {self.expected}")
        if details:
            text = f"{text}: {', '.join(details)}"
        text = text.rstrip(".") + "."
        return text if self.remedy is None else f"{text} Remedy: {self.remedy.rstrip('.')}."


class UsageError(MedmapError):
    """The call itself is wrong."""

    exit_code = 2


class DataError(MedmapError):
    """Data that cannot be used."""

    exit_code = 3


class ReadError(DataError):
    """A file that is unreadable, truncated or not what it claims to be."""


class LimitError(DataError):
    """A declared or unpacked size beyond what may be allocated."""


class GeometryError(DataError):
    """Grids that do not match, or a millimetre asked of an image that has none."""


class LayoutError(DataError):
    """A folder or table in no known layout."""


class DatasetError(DataError):
    """A dataset whose parts contradict each other."""


class BoxError(DatasetError):
    """A box that cannot be meant as it is written.

    Args:
        what: As for every error; begins with the file and the place in it.
        code: The finding of ``check`` that it is, such as ``box_swapped_corners``.
        got, expected, remedy: As for every error.
        case: The case's identifier, or its image as the file names it; the sentence does not repeat it.
    """

    def __init__(
        self,
        what: str,
        code: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
        case: str | None = None,
    ) -> None:
        self.code = code
        super().__init__(what, got=got, expected=expected, remedy=remedy)
        self.case = case


class NotFiniteError(DataError):
    """A loss or a score that is NaN or infinite; the message names the cases."""


class ConfigError(MedmapError):
    """A configuration file or override that is wrong."""

    exit_code = 4


class SizeError(ConfigError):
    """An image size that a network cannot take; where one would fit, the message names it."""


class WeightsError(ConfigError):
    """Starting weights that are absent or do not fit."""


class BundleError(MedmapError):
    """A bundle that is changed, incomplete, unknown or too new."""

    exit_code = 5


class MissingExtraError(MedmapError):
    """An optional dependency that is not installed.

    Args:
        package: The package that could not be imported.
        extra: The name of medmap's extra that brings it.
        needed_for: What the user asked for.
    """

    exit_code = 6

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed",
            remedy=f"pip install 'medmap[{extra}]'",
        )


class MissingToolError(MedmapError):
    """A program of the operating system that is not installed.

    Args:
        program: The program that was not found.
        package: The package of the operating system that brings it.
        needed_for: What the user asked for.

    Example:
        >>> str(MissingToolError("tesseract", "tesseract-ocr", "reading text in pixels"))
        'reading text in pixels needs the program tesseract, which is not installed. Remedy: apt install tesseract-ocr.'
    """

    exit_code = 6

    def __init__(self, program: str, package: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the program {program}, which is not installed",
            remedy=f"apt install {package}",
        )


class InterruptedRun(MedmapError):
    """Stopped by the user; what was done so far is saved."""

    exit_code = 130


class ConformanceError(MedmapError):
    """A task or reader that breaks its protocol."""


class MedmapWarning(UserWarning):
    """What a user should read before trusting a result."""


class LeakageWarning(MedmapWarning):
    """The same patient or the same image stands in two splits."""


class QualityWarning(MedmapWarning):
    """Something odd about the data that does not stop the work."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "case"), counted(3, "case"), counted(2, "class", "classes")
        ('1 case', '3 cases', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
