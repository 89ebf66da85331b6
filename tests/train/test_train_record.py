"""The sheet of augmented images says what one looks at."""

from __future__ import annotations

import numpy as np
import pytest

from medmap.train import record
from medmap.write.captions import LINE


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 40, 60), (1, 40, 60, 5)])
def test_the_sheet_of_augmented_images_says_what_it_shows(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    drawn = record.caption
    monkeypatch.setattr(record, "caption", lambda rows, width: told.append(rows[0][1]) or drawn(rows, width))
    views = np.random.default_rng(0).normal(size=(2, 4, *shape)).astype(np.float32)
    sheet = record._sheet(views, ["c7", "c9"])
    words = "Training images (left) and 3 augmented views of each, as the network may see them"
    assert told == [words + ("; middle slices" if len(shape) == 4 else ""), "case c7", "case c9"]
    assert sheet.array.shape[:2] == (2 * 42 + 3 * (LINE + 4), 4 * 62)
    assert sheet.channels == (("red", "green", "blue") if shape[0] == 3 else ("image",))
    assert sheet.array[: LINE + 4].max() > 200  # there are letters
