"""Words below pictures: what does not fit is cut, what the font lacks is replaced."""

from __future__ import annotations

import numpy as np

from medmap.write.captions import LINE, SWATCH, caption


def test_words_stay_within_the_picture() -> None:
    picture = caption([((255, 0, 0), "a"), (None, "long words " * 40), (None, "\u4e2d\u6587")], 200)
    assert picture.shape == (3 * LINE + 4, 200, 3)
    assert (picture[:LINE] == (255, 0, 0)).all(axis=-1).any()
    assert not (picture[LINE:] == (255, 0, 0)).all(axis=-1).any()
    assert picture[LINE:, 196:].max() < 40  # cut before the edge
    np.testing.assert_array_equal(caption([((0, 0, 0), "much too long")], SWATCH), caption([((0, 0, 0), "")], SWATCH))
