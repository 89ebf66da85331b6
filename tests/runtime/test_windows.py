"""Windows cover everything, agree with MONAI's, stream, and compute what is constant once."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer

from medmap.errors import DataError, NotFiniteError, UsageError
from medmap.runtime import Place, ScoreSink, Windows, slide


def position_aware(batch):
    """Three classes that depend on the value and on where in the window it stands."""
    ramp = np.linspace(0, 1, int(np.prod(batch.shape[2:])), dtype=np.float32).reshape(batch.shape[2:])
    first = batch[:, 0]
    return np.stack([first, first * ramp, np.sin(first + 3 * ramp)], axis=1).astype(np.float32)


def volume(*shape, channels=1):
    return np.random.default_rng(3).standard_normal((channels, *shape)).astype(np.float32)


class Recorder:
    """Slabs and places as they come."""

    def __init__(self):
        self.seen = []

    def add(self, slab, where):
        self.seen.append((slab.copy(), where))

    def finish(self):
        return self.seen


@pytest.mark.parametrize(
    ("shape", "patch", "overlap"),
    [
        ((17, 12, 23), (8, 5, 7), 0.5),
        ((17, 12, 23), (6, 12, 10), 0.25),
        ((9, 30, 8), (16, 8, 11), 0.5),  # smaller than a window along two axes, one of them by an odd number
        ((4, 4, 4), (5, 6, 7), 0.0),
        ((16, 16, 16), (8, 8, 8), 0.7),
        ((31, 20), (8, 12), 0.5),
        ((5, 40), (8, 8), 0.625),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scores_are_those_of_monai(shape, patch, overlap, axis):
    image = volume(*shape, channels=2)
    windows = Windows(patch, overlap, batch=3, axis=axis % len(shape))
    ours = slide(position_aware, image, windows, ScoreSink(shape))
    peer = SlidingWindowInferer(patch, sw_batch_size=2, overlap=overlap, mode="gaussian", sigma_scale=0.125)
    theirs = peer(torch.from_numpy(image[None]), lambda b: torch.from_numpy(position_aware(b.numpy())))[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


sides = st.integers(1, 13)


@given(
    st.lists(st.tuples(sides, sides), min_size=2, max_size=3),
    st.floats(0, 0.9),
    st.integers(1, 4),
    st.sampled_from([None, 0, 1]),
)
def test_what_each_window_repeats_comes_back(sizes, overlap, batch, axis):
    shape, patch = zip(*sizes, strict=True)
    image = volume(*shape)
    windows = Windows(patch, overlap, batch, axis=axis)
    out = slide(lambda b: b, image, windows, ScoreSink(shape), threads=1)
    np.testing.assert_allclose(out, image, atol=1e-5)
    for starts, size, side in zip(windows.starts(shape), shape, patch, strict=True):
        covered = {at for start in starts for at in range(start, start + side)}
        assert set(range(size)) <= covered
        assert starts[0] == 0
        assert max(starts) + side == max(size, side)
        assert list(starts) == sorted(set(starts))


def test_slabs_come_in_order_and_only_once_they_are_finished():
    image, seen_by_network = volume(40, 6, 5), []

    def network(batch):
        seen_by_network.append(len(recorder.seen))
        return position_aware(batch)

    recorder = Recorder()
    slide(network, image, Windows((8, 6, 5), axis=0), recorder)
    ends = [(place.start, place.stop) for _, place in recorder.seen]
    assert ends[0][0] == 0
    assert ends[-1][1] == 40
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))
    assert all(stop - start <= 8 for start, stop in ends)
    assert seen_by_network == list(range(9))  # a slab after each row of windows: nothing waits for the end
    with pytest.raises(ValueError, match="read-only"):
        slide(position_aware, image, Windows((8, 6, 5)), Greedy())


class Greedy:
    """A sink that writes into what is not its own."""

    def add(self, slab, where):
        slab[...] = 0

    def finish(self):
        return None


def test_the_first_axis_is_taken_unless_another_needs_half_the_memory():
    assert Windows((8, 8, 8)).along((20, 30, 100)) == 2
    assert Windows((8, 8, 8)).along((20, 30, 39)) == 0  # not worth its copies
    assert Windows((4, 8, 8)).along((30, 30, 30)) == 0
    assert Windows((8, 8)).along((30, 30)) == 0
    assert Windows((8, 8, 8), axis=1).along((20, 30, 100)) == 1
    recorder = Recorder()
    slide(position_aware, volume(6, 5, 40), Windows((6, 5, 8)), recorder)
    assert {place.axis for _, place in recorder.seen} == {2}
    assert recorder.seen[0][0].shape == (3, 6, 5, 4)


def test_constant_windows_are_computed_once_and_count_like_others():
    image = np.full((1, 16, 16, 64), -1.5, np.float32)
    image[:, 3:12, 4:13, 5:20] = volume(9, 9, 15)
    calls = []

    def counting(batch):
        calls.append(len(batch))
        return position_aware(batch)

    windows = Windows((8, 8, 8), batch=2)
    out = slide(counting, image, windows, ScoreSink(image.shape[1:]))
    total = int(np.prod([len(starts) for starts in windows.starts(image.shape[1:])]))
    assert sum(calls) < total / 2
    peer = SlidingWindowInferer((8, 8, 8), sw_batch_size=4, overlap=0.5, mode="gaussian")
    theirs = peer(torch.from_numpy(image[None]), lambda b: torch.from_numpy(position_aware(b.numpy())))[0].numpy()
    np.testing.assert_allclose(out, theirs, atol=1e-5)


def test_two_constants_are_told_apart():
    image = np.zeros((1, 4, 16), np.float32)
    image[..., 8:] = 2
    out = slide(position_aware, image, Windows((4, 4), overlap=0), ScoreSink((4, 16)))
    assert out[0, 0, 0] == 0
    assert out[0, 0, 15] == 2


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_mirrored_views_are_averaged(axes):
    image = volume(10, 8, 12)
    ours = slide(position_aware, image, Windows((6, 6, 6), mirror=axes, batch=2), ScoreSink(image.shape[1:]))
    views = []
    for number in range(2 ** len(axes)):
        turned = [axis + 1 for bit, axis in enumerate(axes) if number >> bit & 1]
        one = slide(
            lambda b, t=turned: np.flip(position_aware(np.flip(b, [a + 1 for a in t])), [a + 1 for a in t]),
            image,
            Windows((6, 6, 6)),
            ScoreSink(image.shape[1:]),
        )
        views.append(one)
    np.testing.assert_allclose(ours, np.mean(views, axis=0), atol=1e-5)


def test_only_the_box_is_looked_at_with_the_image_around_it():
    image = volume(30, 20, 25)
    box = ((3, 21), (10, 12), (0, 25))
    windows = Windows((8, 8, 8))
    assert windows.region((30, 20, 25), box) == ((3, 21), (7, 15), (0, 25))
    recorder = Recorder()
    slide(position_aware, image, windows, recorder, inside=box)
    assert {place.region for _, place in recorder.seen} == {((3, 21), (7, 15), (0, 25))}
    out = slide(position_aware, image, windows, ScoreSink((30, 20, 25)), inside=box)
    part = slide(position_aware, image[:, 3:21, 7:15], windows, ScoreSink((18, 8, 25)))
    np.testing.assert_allclose(out[:, 3:21, 7:15], part, atol=1e-6)
    assert not out[:, :3].any()
    assert not out[:, :, 15:].any()
    assert Windows((8, 8)).region((20, 5), ((18, 20), (1, 2))) == ((12, 20), (0, 5))


def test_progress_counts_windows_to_the_end():
    told = []
    image = volume(20, 9, 8)
    slide(
        position_aware,
        image,
        Windows((8, 8, 8), batch=4, axis=0),
        ScoreSink((20, 9, 8)),
        progress=lambda *n: told.append(n),
    )
    assert told == [(2, 8), (4, 8), (6, 8), (8, 8)]


def test_a_place_indexes_an_array():
    place = Place(1, 4, 6, ((0, 5), (2, 9)))
    assert np.arange(100).reshape(10, 10)[place.slices].shape == (5, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"patch": (4,)},
        {"patch": (4, 0)},
        {"patch": (4, 4), "overlap": 1.0},
        {"patch": (4, 4), "overlap": -0.1},
        {"patch": (4, 4), "batch": 0},
        {"patch": (4, 4), "mirror": (0, 0)},
        {"patch": (4, 4), "mirror": (2,)},
        {"patch": (4, 4), "axis": 2},
    ],
)
def test_windows_out_of_range_are_refused(settings):
    with pytest.raises(UsageError):
        Windows(**settings)


@pytest.mark.parametrize("box", [((0, 5),), ((0, 5), (3, 3)), ((0, 9), (0, 5)), ((-1, 5), (0, 5))])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(UsageError, match="the box does not lie in the image"):
        slide(position_aware, volume(8, 8), Windows((4, 4)), Recorder(), inside=box)


def test_windows_of_other_dimensions_are_refused():
    with pytest.raises(UsageError, match="another number of axes"):
        slide(position_aware, volume(8, 8), Windows((4, 4, 4)), Recorder())


@pytest.mark.parametrize(
    "network", [lambda b: b[..., :-1], lambda b: b[:, 0], lambda b: b[:, :0], lambda b: np.repeat(b, 2, axis=0)]
)
def test_a_network_that_answers_something_else_is_refused(network):
    with pytest.raises(DataError, match="does not answer each window"):
        slide(network, volume(8, 8), Windows((4, 4)), Recorder())


def test_a_network_that_changes_its_mind_is_refused():
    answers = iter([2, 2, 3])
    with pytest.raises(DataError, match="does not answer each window"):
        slide(lambda b: np.repeat(b, next(answers), axis=1), volume(8, 8), Windows((4, 4)), Recorder())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    image = volume(20, 8, 8)
    image[0, 13, 2, 2] = bad
    with pytest.raises(NotFiniteError, match="in plane 13"):
        slide(lambda b: b, image, Windows((8, 8, 8), axis=0), Recorder())
