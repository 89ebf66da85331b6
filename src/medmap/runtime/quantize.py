"""Networks in 8-bit integers: scales fitted on prepared inputs after training; the door of NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import BundleError, DataError, MissingExtraError
from medmap.runtime.engines import openvino
from medmap.runtime.graph import read_onnx

CALIBRATION_INPUTS = 64


def quantized(model: str | Path, inputs: NDArray[np.float32], *, kept: int = 0) -> tuple[bytes, bytes]:
    """A network whose convolutions compute in 8-bit integers, as an OpenVINO graph and its weights.

    Weights take one scale a channel, activations one a layer, set from what the layers see on the inputs; biases are
    then corrected for what rounding shifts (NNCF's post-training quantisation; Nagel et al. 2019 for the correction).
    The graph holds ranges, none of the inputs. Whole 8-bit weights are used everywhere: the half range that keeps older
    processors from overflowing is for those without VNNI, which take no such network (``Bundle.engine``).

    Args:
        model: The ONNX file in float32.
        inputs: (N, C, *spatial) float32 prepared inputs like those that will come; at most 64 are looked at.
        kept: So many convolutions before the answer stay as they are, counted back along each way to it.

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
                ignored_scope=nncf.IgnoredScope(names=_before_the_answer(network, kept)),
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


def _before_the_answer(network: Any, count: int) -> list[str]:
    """Names of the convolutions with fewer than ``count`` others between them and the answer on some way to it."""
    fewest: dict[str, int] = {}
    found: set[str] = set()
    waiting = [(result, 0) for result in network.get_results()] if count else []
    while waiting:
        node, passed = waiting.pop()
        name = node.get_friendly_name()
        if fewest.get(name, count) <= passed:
            continue
        fewest[name] = passed
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            found.add(name)
            passed += 1
        waiting += [(given.get_source_output().get_node(), passed) for given in node.inputs() if passed < count]
    return sorted(found)


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
