"""Tags of boxes: over no other tag, within the picture, over other boxes' lines only where there is no other place."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap.write.tags import EDGE, placed_tags

SIZE = (200, 300)
corner = st.tuples(st.integers(0, 180), st.integers(0, 280), st.integers(2, 90), st.integers(2, 90))


@settings(max_examples=60, deadline=None)
@given(st.lists(corner, max_size=25), st.integers(8, 60))
def test_no_tag_covers_another_or_leaves_the_picture(rows: list[tuple[int, int, int, int]], width: int) -> None:
    boxes = np.array([(t, a, min(t + h, 200), min(a + w, 300)) for t, a, h, w in rows], float).reshape(-1, 4)
    tags = placed_tags(boxes, [width] * len(boxes), 17, SIZE)
    seen = np.zeros(SIZE, int)
    for place in tags.places:
        if place is not None:
            assert min(place) >= 0
            assert place[2] <= 200
            assert place[3] <= 300
            seen[place[0] : place[2], place[1] : place[3]] += 1
    assert seen.max(initial=0) <= 1


def test_a_tag_hides_no_line_of_another_box_where_it_need_not() -> None:
    above = [10.0, 20.0, 60.0, 120.0]
    below = [64.0, 20.0, 120.0, 120.0]  # its usual place, above it, would lie over the first one's lower line
    tags = placed_tags(np.array([above, below]), [40, 40], 17, SIZE)
    assert tags.clear
    top, _, bottom, _ = tags.places[1]
    assert top >= 60 + EDGE or bottom <= 60 - EDGE


def test_what_has_no_room_is_said() -> None:
    assert placed_tags(np.array([[0.0, 0.0, 10.0, 10.0]]), [400], 17, SIZE).places == (None,)
    same = np.array([[90.0, 90.0, 95.0, 95.0]] * 40)
    tags = placed_tags(same, [60] * 40, 17, SIZE)
    assert None in tags.places
    assert not tags.clear
    assert placed_tags(np.zeros((0, 4)), [], 17, SIZE).clear
