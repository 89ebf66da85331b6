"""A case's image as networks see it: its one input, or several joined as channels."""

from __future__ import annotations

from collections.abc import Sequence

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.image import Image
from medmap.prepare import joined
from medmap.read import read_ref


def case_image(dataset: Dataset, case: Case, inputs: Sequence[str] | None = None) -> Image:
    """Read a case's inputs and join them; of several, some may be missing.

    Args:
        dataset: Where the files are.
        case: Whose image.
        inputs: Names in the order of the channels; None: the dataset's.

    Raises:
        DataError: None was acquired, one cannot be read, or they cannot be joined; the case is named.
    """
    names = tuple(dataset.inputs) if inputs is None else tuple(inputs)
    refs = {name: case.inputs.get(name) for name in names}
    if not any(ref is not None for ref in refs.values()):
        what = "the input was not acquired" if len(names) == 1 else "none of the inputs was acquired"
        raise DataError(what, got="no " + ", no ".join(names), case=case.id)
    images = {name: None if ref is None else read_ref(dataset, ref) for name, ref in refs.items()}
    if len(names) == 1:
        return next(image for image in images.values() if image is not None)
    try:
        return joined(images)
    except DataError as error:
        raise DataError(
            error.what, got=error.got, expected=error.expected, remedy=error.remedy, case=case.id
        ) from error
