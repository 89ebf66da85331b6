from __future__ import annotations

import inspect
import pickle
import re

import pytest

from medmap import errors
from medmap.errors import (
    BoxError,
    BundleError,
    ConfigError,
    ConformanceError,
    DataError,
    DatasetError,
    GeometryError,
    InterruptedRun,
    LayoutError,
    LeakageWarning,
    LimitError,
    MedmapError,
    MedmapWarning,
    MissingExtraError,
    MissingToolError,
    NotFiniteError,
    QualityWarning,
    ReadError,
    SizeError,
    UsageError,
    WeightsError,
)

EXIT_CODES = {
    MedmapError: 70,
    UsageError: 2,
    DataError: 3,
    ReadError: 3,
    LimitError: 3,
    GeometryError: 3,
    LayoutError: 3,
    DatasetError: 3,
    BoxError: 3,
    NotFiniteError: 3,
    ConfigError: 4,
    SizeError: 4,
    WeightsError: 4,
    BundleError: 5,
    MissingExtraError: 6,
    MissingToolError: 6,
    InterruptedRun: 130,
    ConformanceError: 70,
}


def all_classes() -> set[type]:
    return {c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == "medmap.errors"}


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items(), ids=lambda v: getattr(v, "__name__", str(v)))
def test_exit_codes_are_those_of_the_interface(kind: type[MedmapError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, MedmapError)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([ │├└─]*)([A-Z]\w+)  ", line)
        if not match:
            continue
        depth, name = len(match[1]), match[2]
        above = [(d, n) for d, n in above if d < depth]
        drawn[name] = above[-1][1] if above else ""
        above.append((depth, name))
    real = {c.__name__: c.__mro__[1].__name__ for c in all_classes()}
    real |= {"MedmapError": "", "MedmapWarning": ""}
    assert drawn == real
    assert {c for c in all_classes() if issubclass(c, MedmapError)} == EXIT_CODES.keys()


def test_a_message_says_what_got_expected_remedy_and_case() -> None:
    error = DataError(
        "the slices are uneven", got="gaps of 1 and 3 mm", expected="one gap", remedy="rescan.", case="c7"
    )
    assert str(error) == ("case c7: the slices are uneven: got gaps of 1 and 3 mm, expected one gap. Remedy: rescan.")
    assert (error.what, error.got, error.expected) == ("the slices are uneven", "gaps of 1 and 3 mm", "one gap")
    assert str(MedmapError("it is odd.")) == "it is odd."
    assert str(MedmapError("it is odd", expected=0)) == "it is odd: expected 0."


def test_a_missing_extra_names_the_exact_command() -> None:
    error = MissingExtraError("captum", "explain", "a saliency map")
    assert "captum" in str(error)
    assert "pip install 'medmap[explain]'" in str(error)


@pytest.mark.parametrize(
    "error",
    [ReadError("short", got=3, expected=4, remedy="again", case="c"), MissingExtraError("captum", "explain", "a map")],
    ids=["plain", "own arguments"],
)
def test_errors_come_whole_out_of_a_worker_process(error: MedmapError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_warnings_are_user_warnings_of_one_family() -> None:
    assert issubclass(MedmapWarning, UserWarning)
    assert issubclass(LeakageWarning, MedmapWarning)
    assert issubclass(QualityWarning, MedmapWarning)
