"""Labels, regions and certainty on the source grid are what ``Trace.back`` and argmax would say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from grids import oblique_geometry
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Crop, Flip, Geometry, Pad, Permute, Resample, Trace
from medmap.runtime import CertaintySink, LabelSink, Place, RegionSink, ScoreSink, Several, Windows, kernels, slide
from medmap.runtime.cells import cells_of

TIES = 1e-4  # at most one voxel in 10,000, where two classes score alike to the last digit


def scores(shape, classes, seed=0):
    """Positive, and smooth enough that neighbours often agree."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((classes, *(n // 3 + 2 for n in shape)))
    trace = Trace(Geometry.without_size(coarse.shape[1:]), (Resample(tuple(shape)),))
    smooth = np.stack([trace.forward(c, order=1) for c in coarse])
    return softmax(smooth * 3, axis=0).astype(np.float32)


def feed(sink, array, axis=0, step=3, region=None):
    """Hand an array over in slabs, as ``slide`` does."""
    region = region or tuple((0, n) for n in array.shape[1:])
    first, last = region[axis]
    for start in range(first, last, step):
        where = Place(axis, start, min(start + step, last), region)
        sink.add(array[(slice(None), *where.slices)], where)
    return sink.finish()


def reference(trace, array, region=None):
    if region is not None:
        trace = trace.then(Crop(tuple(a for a, _ in region), tuple(b - a for a, b in region)))
        array = array[(slice(None), *(slice(*ends) for ends in region))]
    return np.stack([trace.back(channel, order=1) for channel in array.astype(np.float64)])


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours != theirs).mean() <= max(TIES, 1.01 / ours.size)


SOURCE = oblique_geometry()
WAYS = {
    "nothing": (),
    "finer": (Resample((11, 13, 17)),),
    "coarser": (Resample((3, 4, 5)),),
    "one axis": (Resample((5, 7, 29)),),
    "one voxel": (Resample((1, 7, 1)),),
    "turned": (Permute((2, 0, 1)), Flip((0, 2))),
    "as nnU-Net": (Permute((2, 1, 0)), Crop((2, 1, 0), (7, 5, 4)), Resample((9, 4, 9)), Pad((3, 0, 1), (2, 1, 1))),
    "padded first": (Pad((1, 2, 0), (0, 2, 3)), Resample((9, 9, 9)), Flip((1,))),
    "cropped last": (Resample((9, 15, 12)), Crop((2, 3, 1), (5, 10, 9)), Pad((1, 1, 1), (0, 0, 0))),
    "cropped twice": (Crop((1, 0, 2), (4, 6, 8)), Pad((2, 0, 0), (0, 0, 2)), Flip((2,)), Crop((1, 1, 1), (4, 5, 8))),
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", WAYS)
def test_labels_are_those_of_the_trace_and_argmax(name, axis):
    trace = Trace(SOURCE, WAYS[name])
    array = scores(trace.target.shape, 6)
    ours = feed(LabelSink(trace, threads=2), array, axis)
    assert ours.dtype == np.uint8
    assert agree(ours, reference(trace, array).argmax(0))
    assert 0 in ours or name != "cropped twice"


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.permutations((0, 1, 2)),
    st.sets(st.integers(0, 2)),
    st.integers(1, 9),
    st.integers(0, 2),
    st.integers(1, 5),
)
def test_labels_for_any_grids(source, target, order, flips, classes, axis, step):
    trace = Trace(Geometry.without_size(source), (Permute(tuple(order)), Flip(tuple(flips)), Resample(target)))
    array = scores(target, classes, seed=sum(source))
    assert agree(feed(LabelSink(trace, threads=1), array, axis, step), reference(trace, array).argmax(0))


def test_two_dimensions():
    trace = Trace(Geometry.without_size((20, 31)), (Permute((1, 0)), Resample((12, 50)), Pad((2, 0), (1, 3))))
    array = scores(trace.target.shape, 4)
    for axis in (0, 1):
        assert agree(feed(LabelSink(trace), array, axis, 4), reference(trace, array).argmax(0))


def test_a_class_that_wins_no_corner_may_win_between_them():
    array = np.array([[3.0, 0.0], [0.0, 3.0], [2.5, 2.5]], np.float32)[:, None, None]
    trace = Trace(Geometry.without_size((1, 1, 9)), (Resample((1, 1, 2)),))
    ours = feed(LabelSink(trace), array)
    assert agree(ours, reference(trace, array).argmax(0))
    assert 2 in ours


def test_equal_scores_take_the_first_class():
    trace = Trace(Geometry.without_size((6, 6, 6)), (Resample((3, 3, 3)),))
    assert not feed(LabelSink(trace), np.ones((4, 3, 3, 3), np.float32)).any()


def test_many_classes_and_labels_of_their_own():
    trace = Trace(SOURCE, (Resample((8, 9, 10)),))
    array = scores((8, 9, 10), 300)
    ours = feed(LabelSink(trace), array)
    assert ours.dtype == np.uint16
    assert agree(ours, reference(trace, array).argmax(0))
    few = scores((8, 9, 10), 3)
    named = feed(LabelSink(trace, (0, 7, 200)), few)
    assert named.dtype == np.uint8
    assert agree(named, np.array([0, 7, 200])[reference(trace, few).argmax(0)])
    assert feed(LabelSink(trace, (0, 7, 4000)), few).dtype == np.uint16


def test_a_region_alone_is_labelled_and_the_rest_is_background():
    trace = Trace(SOURCE, (Resample((11, 13, 17)),))
    array, region = scores((11, 13, 17), 5), ((2, 9), (0, 13), (5, 12))
    array[0] = 0
    ours = feed(LabelSink(trace), array, 2, region=region)
    assert agree(ours, reference(trace, array, region).argmax(0))
    assert (ours == 0).any()


def test_a_region_without_any_voxel_of_the_source_is_refused():
    trace = Trace(SOURCE, (Pad((4, 0, 0), (0, 0, 0)),))
    with pytest.raises(GeometryError, match="no voxel of the source"):
        feed(LabelSink(trace), scores((9, 7, 11), 2), region=((0, 3), (0, 7), (0, 11)))


@pytest.mark.parametrize("name", WAYS)
def test_overlapping_regions_are_those_of_the_trace_and_a_limit(name):
    trace = Trace(SOURCE, WAYS[name])
    array = scores(trace.target.shape, 4)
    ours = feed(RegionSink(trace, 0.3), array)
    assert ours.dtype == np.bool_
    # beyond a crop that came after a resampling, trace.back fades scores to nothing; a limit would see that
    if name != "cropped last":
        assert agree(ours, np.moveaxis(reference(trace, array) > np.float32(0.3), 0, -1))
    each = feed(RegionSink(trace, [0.2, 0.3, 2.0, -1.0], threads=1), array, axis=2)
    assert agree(each[..., 1], ours[..., 1])
    assert not each[..., 2].any()
    assert each[..., 3].sum() == ours[..., 0].size or "cropped" in name or name == "as nnU-Net"


def test_entropy_and_confidence():
    trace = Trace(SOURCE, (Flip((1,)), Resample((9, 10, 12))))
    logits = np.log(scores((9, 10, 12), 5))
    odds = softmax(logits.astype(np.float64), axis=0)
    entropy = -(odds * np.log(odds)).sum(0) / np.log(5)
    for measure, expected in (("entropy", entropy), ("confidence", odds.max(0))):
        ours = feed(CertaintySink(trace, measure), logits)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, trace.back(expected, order=1), atol=1e-5)
    assert not feed(CertaintySink(trace), logits[:1]).any()
    even = feed(CertaintySink(trace), np.zeros_like(logits))
    np.testing.assert_allclose(even, 1, atol=1e-6)


def test_one_pass_for_several_answers_from_windows():
    trace = Trace(SOURCE, (Resample((12, 13, 14)),))
    image = np.random.default_rng(1).standard_normal((1, 12, 13, 14)).astype(np.float32)
    sinks = Several(labels=LabelSink(trace), entropy=CertaintySink(trace), scores=ScoreSink((12, 13, 14)))
    answers = slide(lambda b: np.concatenate([b, -b, b * b], axis=1), image, Windows((6, 6, 6), batch=2), sinks)
    assert agree(answers["labels"], reference(trace, answers["scores"]).argmax(0))
    assert answers["entropy"].shape == SOURCE.shape


def test_cells_hold_each_voxel_once():
    trace = Trace(SOURCE, WAYS["as nnU-Net"])
    for cells in cells_of(trace, tuple((0, n) for n in trace.target.shape)):
        voxels = [v for a, b in zip(cells.start, cells.stop, strict=True) for v in range(a, b)]
        assert voxels == list(range(len(cells.part)))
        assert len(np.zeros(SOURCE.shape[cells.source_axis])[cells.view]) == len(cells.part)
        assert ((cells.high - cells.low) <= 1).all()
        assert ((cells.part >= 0) & (cells.part < 1)).all()


@pytest.mark.parametrize("sink", [LabelSink, RegionSink, CertaintySink])
def test_slabs_out_of_order_are_refused(sink):
    trace = Trace(SOURCE, ())
    array, region = scores(SOURCE.shape, 3), ((0, 5), (0, 7), (0, 11))
    with pytest.raises(DataError, match="first slab is missing"):
        sink(trace).add(array[:, 1:3], Place(0, 1, 3, region))
    for slab, place in (
        (array[:, 3:4], Place(0, 3, 4, region)),
        (array[:, 0:2], Place(0, 0, 2, region)),
        (array[:, :, 2:4], Place(1, 2, 4, region)),
        (array[:, 2:3], Place(0, 2, 4, region)),
        (array[:, 2:3, :6], Place(0, 2, 3, ((0, 5), (0, 6), (0, 11)))),
    ):
        begun = sink(trace)
        begun.add(array[:, :2], Place(0, 0, 2, region))
        with pytest.raises(DataError, match="does not follow"):
            begun.add(slab, place)
        with pytest.raises(DataError, match="missing at the end"):
            begun.finish()
    with pytest.raises(DataError, match="missing at the end"):
        sink(trace).finish()
    with pytest.raises(DataError, match="do not lie on the prepared grid"):
        sink(trace).add(array[:, :2], Place(0, 0, 2, ((0, 5), (0, 7), (0, 12))))


def test_settings_that_do_not_fit_are_refused():
    trace, array = Trace(SOURCE, ()), scores(SOURCE.shape, 3)
    for values in ((0, 1), (0, 1, -1), (0, 1, 70_000)):
        with pytest.raises(UsageError, match="each class needs a label"):
            feed(LabelSink(trace, values), array)
    for limits in ((0.5, 0.5), (0.5, 0.5, np.nan)):
        with pytest.raises(UsageError, match="each region needs a limit"):
            feed(RegionSink(trace, limits), array)
    with pytest.raises(UsageError, match="unknown measure"):
        CertaintySink(trace, "hope")
    with pytest.raises(DataError, match="no slab"):
        ScoreSink((3, 3)).finish()


def test_without_a_place_for_compiled_files_kernels_are_kept_in_memory(monkeypatch):
    import numba

    real, asked = numba.njit, []

    def njit(*, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    kernel = kernels.compiled.__wrapped__(kernels.best_class)
    best = np.empty((1, 2, 2), np.uint16)
    kernel(np.float32([[[[1, 0], [0, 1]], [[0, 1], [1, 1]]]]), best)
    assert asked == [True, False]
    assert best.tolist() == [[[0, 1], [1, 0]]]
