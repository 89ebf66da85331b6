"""One case after another, the next one read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from medmap.dataset import Case
from medmap.errors import DataError
from medmap.predict.accept import FailedCase
from medmap.results import Prediction

Ready = TypeVar("Ready")


def in_order(
    cases: Sequence[Case],
    ready: Callable[[Case], Ready],
    answer: Callable[[str, Ready], Prediction],
    *,
    ahead: bool,
) -> Iterator[Prediction | FailedCase]:
    """Answers in the order of the cases; a case that cannot be read fails alone.

    Args:
        cases: Which.
        ready: Reads and prepares a case.
        answer: Makes the answer of what was prepared; called with the case's identifier.
        ahead: Whether the next case is read while one is answered, which takes the memory of both.
    """
    with ThreadPoolExecutor(1) as reader:
        following: Future[Ready] | None = None
        for number, case in enumerate(cases):
            current = following or reader.submit(ready, case)
            more = ahead and number + 1 < len(cases)
            following = reader.submit(ready, cases[number + 1]) if more else None
            found: Prediction | FailedCase
            try:
                found = answer(case.id, current.result())
            except DataError as error:
                found = FailedCase(case.id, str(error))
            del current  # whoever takes the answer may need the memory of its image
            yield found
