"""Memory is known before the run: the estimate is held against a process that may not take more."""

import json
import subprocess
import sys

import pytest

from medmap.errors import LimitError, UsageError
from medmap.geometry import Geometry, Resample, Trace
from medmap.runtime import LabelSink, RegionSink, ScoreSink, Several, Windows, plan_memory
from medmap.runtime.memory import COMPILER_BYTES

CHILD = """
import json, resource, sys
import numpy as np
from medmap.geometry import Geometry, Resample, Trace
from medmap.runtime import LabelSink, Windows, plan_memory, slide

slices, classes, axis, slack = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), 24 * 2**20

def peak():  # of this program alone: getrusage also counts what stood here before it
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

def run(slices, classes, measured):
    shape = (slices, 90, 80)
    trace = Trace(Geometry.without_size(tuple(2 * n for n in shape)), (Resample(shape),))
    windows, sink = Windows((32, 32, 32), batch=2, axis=axis), LabelSink(trace, threads=1)
    plan = plan_memory(windows, (1, *shape), classes, sink)
    needed = plan.bytes_needed - plan.parts["compiler"]
    if measured:  # nothing may be taken beyond the plan
        pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + needed + slack, -1))
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    network = lambda batch: np.repeat(batch, classes, axis=1)
    slide(network, image, windows, sink, threads=1)
    return needed

run(40, 2, False)
before = peak()
needed = run(slices, classes, True)
print(json.dumps({"needed": needed, "taken": peak() - before}))
"""


def taken(slices, classes, axis=0):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(slices), str(classes), str(axis)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process is Linux's")
@pytest.mark.parametrize("axis", [0, 2])
def test_a_run_takes_what_was_planned(axis):
    told = taken(100, 60, axis)
    assert 0.7 * told["needed"] < told["taken"] < 1.05 * told["needed"] + 8 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process is Linux's")
def test_more_slices_cost_their_voxels_and_nothing_for_classes():
    few, many = taken(100, 40), taken(300, 40)
    image_and_answer = 200 * 90 * 80 * (4 + 8)  # float32 in, a byte for each of eight times as many voxels out
    assert many["taken"] - few["taken"] < image_and_answer + 8 * 2**20


def example(**more):
    trace = Trace(Geometry.without_size((400, 512, 512)), (Resample((267, 267, 267)),))
    return plan_memory(
        Windows((128, 128, 128), batch=more.pop("batch", 1)), (1, 267, 267, 267), 60, LabelSink(trace), **more
    )


def test_sixty_classes_at_full_resolution_fit_into_four_gibibytes():
    plan = example(limit_bytes=4 * 2**30)
    assert plan.bytes_needed < 4 * 2**30 < 60 * 400 * 512 * 512 * 4 / 5
    assert plan.parts["sums"] == (128 * 267 * 267 * 61 + 128**3) * 4
    assert "sums 2.1 GiB" in str(plan)


def test_a_batch_is_made_as_small_as_the_limit_wants():
    assert example(batch=8).windows.batch == 8
    tight = example(batch=8, limit_bytes=5 * 2**30)
    assert 1 < tight.windows.batch < 8
    assert tight.bytes_needed <= 5 * 2**30
    one_more = example(batch=tight.windows.batch + 1)
    assert one_more.bytes_needed > 5 * 2**30


def test_what_does_not_fit_is_refused_with_what_it_needs():
    with pytest.raises(LimitError, match=r"got 3\.\d GiB .*expected at most 2\.0 GiB.*allow 3\.\d GiB.*axis 0"):
        example(limit_bytes=2 * 2**30)
    with pytest.raises(LimitError, match=r"held already 3\.0 GiB"):
        example(limit_bytes=4 * 2**30, held_bytes=3 * 2**30)


def test_each_sink_says_what_it_holds():
    trace = Trace(Geometry.without_size((20, 30, 40)), (Resample((10, 10, 10)),))
    labels, regions, scores = LabelSink(trace), RegionSink(trace), ScoreSink((10, 10, 10))
    plane = (3, 100, 4)
    assert labels.bytes_needed(*plane) == 24_000 + 3 * 100 * 4 + 5 * 100 * 2
    assert regions.bytes_needed(*plane) == 3 * 24_000 + 3 * 100 * 4
    assert scores.bytes_needed(*plane) == 3 * 1000 * 4
    both = Several(labels=labels, scores=scores)
    assert both.bytes_needed(*plane) == labels.bytes_needed(*plane) + scores.bytes_needed(*plane)
    assert LabelSink(trace, (0, 1, 300)).bytes_needed(*plane) == labels.bytes_needed(*plane) + 24_000


def test_mirrored_views_a_box_and_another_axis_are_counted():
    sink, shape = ScoreSink((64, 64, 64)), (1, 64, 64, 64)
    plain = plan_memory(Windows((16, 16, 16), axis=0), shape, 4, sink)
    assert plain.parts["compiler"] == COMPILER_BYTES
    mirrored = plan_memory(Windows((16, 16, 16), axis=0, mirror=(0,)), shape, 4, sink)
    assert mirrored.parts["scores of a batch"] == 2 * plain.parts["scores of a batch"]
    boxed = plan_memory(Windows((16, 16, 16), axis=0), shape, 4, sink, inside=((0, 64), (0, 32), (0, 32)))
    assert boxed.parts["sums"] - 16**3 * 4 == (plain.parts["sums"] - 16**3 * 4) / 4
    assert plan_memory(Windows((16, 16, 16), axis=2), shape, 4, sink).parts["scores in order"] > 0


@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 2), ((1, 8, 8, 8), 0)])
def test_what_cannot_be_planned_is_refused(shape, classes):
    with pytest.raises(UsageError):
        plan_memory(Windows((4, 4, 4)), shape, classes, ScoreSink((8, 8, 8)))
