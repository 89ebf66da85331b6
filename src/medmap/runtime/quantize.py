"""Networks in 8-bit integers: scales fitted on prepared inputs after training; the door of NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import BundleError, DataError, MissingExtraError
from medmap.runtime.graph import read_onnx
from medmap.runtime.openvino_graph import CONVOLUTIONS, from_last_convolutions, openvino

CALIBRATION_INPUTS = 64
# Sums and means at the end of a block cost no arithmetic worth saving; of a detector's error in 8 bits more than half
# came from rounding them.
ROUNDED_FOR_NOTHING = ["Add", "AvgPool"]
TRANSPOSED = ("ConvolutionBackpropData", "GroupConvolutionBackpropData")
SMALL_SHARE = 0.1  # of all arithmetic; point-wise convolutions that take less are shortcuts past a block, and stay


def quantized(model: str | Path, inputs: NDArray[np.float32], *, kept: int = 0) -> tuple[bytes, bytes]:
    """A network whose convolutions compute in 8-bit integers, as an OpenVINO graph and its weights.

    The first convolutions, point-wise ones where they are a small share (shortcuts past a block, the answer), sums and
    means stay as they are: they cost little and rounding them loses most.

    Weights take one scale a channel, activations one a layer, set from what the layers see on the inputs; biases are
    then corrected for what rounding shifts (NNCF's post-training quantisation; Nagel et al. 2019 for the correction).
    The graph holds ranges, none of the inputs. Whole 8-bit weights are used everywhere: the half range that keeps older
    processors from overflowing is for those without VNNI, which take no such network (``Bundle.engine``).

    Args:
        model: The ONNX file in float32.
        inputs: (N, C, *spatial) float32 prepared inputs like those that will come; at most 64 are looked at.
        kept: So many convolutions before the answer, counted back along each way to it, stay as they are, and all that
            follows them.

    Raises:
        MissingExtraError: NNCF is not installed.
        BundleError: The network cannot be read or quantised.
        DataError: No inputs.
    """
    if not len(inputs):
        raise DataError("scales need at least one prepared input")
    ov = openvino()
    with _quiet():
        nncf = _nncf()
    chosen = [np.ascontiguousarray(inputs[i : i + 1]) for i in range(min(len(inputs), CALIBRATION_INPUTS))]
    try:
        network = ov.Core().read_model(model=read_onnx(model), weights=b"")
        with _quiet():
            low = nncf.quantize(
                network,
                nncf.Dataset(chosen),
                preset=nncf.QuantizationPreset.MIXED,  # activations need not be symmetric: LeakyReLU's are not
                subset_size=len(chosen),
                ignored_scope=nncf.IgnoredScope(
                    names=sorted({*from_last_convolutions(network, kept), *_better_left(network)}),
                    types=ROUNDED_FOR_NOTHING,
                    validate=False,
                ),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
            )
    except (RuntimeError, ValueError, nncf.ValidationError) as error:
        raise BundleError("the network cannot be quantised", got=" ".join(str(error).split())[:300]) from error
    notes = low.get_rt_info()
    for key in list(notes):
        del notes[key]  # what the tool says of itself and of where it ran
    with tempfile.TemporaryDirectory(prefix="medmap-int8-") as folder:
        path = Path(folder) / "model.xml"
        ov.serialize(low, path)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _better_left(network: Any) -> list[str]:
    """Names of the convolutions that read the image, and of the point-wise ones where these are a small share."""
    seen: dict[str, bool] = {}  # what depends on the image, and whether a convolution stands between
    first, pointwise = [], []
    work = dict.fromkeys(("all", "pointwise"), 0)
    for node in network.get_ordered_ops():
        name = node.get_friendly_name()
        given = [one.get_source_output().get_node().get_friendly_name() for one in node.inputs()]
        beyond = [seen[one] for one in given if one in seen]
        if node.get_type_name() == "Parameter" or beyond:
            seen[name] = any(beyond)
        kind = node.get_type_name()
        if kind not in (*CONVOLUTIONS, *TRANSPOSED):
            continue
        if not seen.get(name):
            first.append(name)
        seen[name] = True
        weights = [int(side) for side in node.input(1).get_shape()]
        places = math.prod(side.get_length() for side in list(node.output(0).get_partial_shape())[2:] if side.is_static)
        work["all"] += math.prod(weights) * places
        if kind in CONVOLUTIONS and math.prod(weights[-(len(node.output(0).get_partial_shape()) - 2) :]) == 1:
            work["pointwise"] += math.prod(weights) * places
            pointwise.append(name)
    return [*first, *(pointwise if work["pointwise"] < SMALL_SHARE * work["all"] else [])]


def _nncf() -> Any:
    try:
        import nncf  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("nncf", "int8", "a network in 8-bit integers") from error
    return nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws progress bars and speaks of its own steps, and what it imports speaks of GPUs."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
