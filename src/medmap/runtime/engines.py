"""The engines behind one seam; the door of ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medmap.errors import BundleError, DataError, UsageError
from medmap.runtime.graph import read_graph, read_onnx
from medmap.runtime.machine import available_cores, cpu_facts
from medmap.runtime.openvino_graph import answer_apart, openvino

if TYPE_CHECKING:
    from torch import nn

EngineKind = Literal["torch", "onnx", "openvino"]
Precision = Literal["float32", "bfloat16", "int8", "auto"]
Floats = NDArray[np.float32]


class Engine(Protocol):
    """A network that runs: (N, C, *spatial) float32 in, (N, …) float32 out, whatever computes it.

    Args:
        name: ``torch``, ``onnx`` or ``openvino``.
        precision: What it computes in: ``float32``, ``bfloat16`` or ``int8``.
        device: Where: ``cpu``, ``cuda`` …
    """

    name: str
    precision: str
    device: str

    def __call__(self, batch: Floats) -> Floats:
        """The network's outputs for a batch of any size."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be called afterwards."""
        ...


def open_engine(
    kind: EngineKind,
    *,
    module: nn.Module | None = None,
    model_path: str | Path | None = None,
    threads: int | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    kept: int = 0,
) -> Engine:
    """An engine ready to run.

    Args:
        kind: ``torch`` runs ``module``; ``onnx`` and ``openvino`` run the ONNX file ``model_path``.
        module: The network, for torch; the engine moves it to the device and sets it to evaluation.
        model_path: The ONNX file, for the others; it is checked before an engine sees it. In int8 the ``.xml`` that
            ``quantized`` made, its weights in the ``.bin`` beside it.
        threads: Threads on a CPU, ≥ 1; None: as many as cores may be used.
        precision: ``float32`` unless asked otherwise; ``auto`` takes bfloat16 where the processor computes it. Only a
            passed parity makes bfloat16 and int8 trustworthy.
        device: ``auto``: for torch a CUDA device where there is one, else the CPU; ``cpu``, ``cuda``, ``mps``, ``gpu``.
        kept: OpenVINO computes so many convolutions before the answer, and what follows them, in float32 whatever the
            precision, counted back along each way to it.

    Raises:
        UsageError: An unknown engine, device or precision, or neither network nor file given.
        BundleError: The ONNX file is none, points outside itself, or the engine cannot run it.
    """
    if threads is not None and threads < 1:
        raise UsageError("an engine needs at least one thread", got=threads)
    if precision not in ("float32", "bfloat16", "int8", "auto"):
        raise UsageError("an unknown precision", got=precision, expected="float32, bfloat16, int8 or auto")
    if precision == "int8" and kind in ("torch", "onnx"):
        raise UsageError(f"{kind} does not run int8 here", got=precision, remedy="take openvino")
    count = threads or available_cores()
    if kind == "torch":
        if module is None:
            raise UsageError("the torch engine needs a network", remedy="give module=")
        return _Torch(module, count if threads else None, precision, device)
    if kind not in ("onnx", "openvino"):
        raise UsageError("an unknown engine", got=kind, expected="torch, onnx or openvino")
    if model_path is None:
        raise UsageError(f"the {kind} engine needs an ONNX file", remedy="give model_path=, or export the bundle first")
    if kind == "onnx":
        return _OnnxRuntime(read_onnx(model_path), str(model_path), count, precision, device)
    data = read_graph(model_path) if precision == "int8" else (read_onnx(model_path), b"")
    return _OpenVino(data, str(model_path), count, (precision, kept), device)


def _checked(batch: Floats, ndim: int) -> Floats:
    if batch.ndim != ndim or not batch.shape[0]:
        raise DataError("a batch does not fit the network", got=batch.shape, expected=f"{ndim} axes (N, C, *spatial)")
    return np.ascontiguousarray(batch, dtype=np.float32)


class _Torch:
    """The reference: the network itself."""

    name: str = "torch"

    def __init__(self, module: nn.Module, threads: int | None, precision: Precision, device: str) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
            self._module: nn.Module | None = module.to(self._device).eval()
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                "torch cannot use this device", got=device, expected="cpu, or cuda where there is a GPU"
            ) from error
        if precision == "auto":
            fast = cpu_facts().fast_bfloat16 if self._device.type == "cpu" else self._device.type == "cuda"
            precision = "bfloat16" if fast else "float32"
        self.precision: str = precision
        self.device: str = self._device.type
        self._threads = threads

    def __call__(self, batch: Floats) -> Floats:
        import torch

        if self._module is None:
            raise UsageError("the engine is closed")
        if batch.ndim < 3 or not batch.shape[0]:
            raise DataError("a batch does not fit the network", got=batch.shape, expected="axes (N, C, *spatial)")
        before = torch.get_num_threads()
        low = self.precision == "bfloat16"
        try:
            if self._threads is not None:  # torch's threads are the process's: taken for this call only
                torch.set_num_threads(self._threads)
            with torch.inference_mode(), torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low):
                # np.array: read-only batches would make torch warn, and a network may write into its input
                out = self._module(torch.from_numpy(np.array(batch, dtype=np.float32, order="C")).to(self._device))
            return np.asarray(out.float().cpu().numpy(), dtype=np.float32)
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)

    def close(self) -> None:
        self._module = None


class _OnnxRuntime:
    """ONNX Runtime, on a CPU or a CUDA device; float32 only."""

    name: str = "onnx"
    precision: str = "float32"

    def __init__(self, data: bytes, where: str, threads: int, precision: Precision, device: str) -> None:
        ort = _onnxruntime()
        if precision == "bfloat16":
            raise UsageError(
                "ONNX Runtime runs this file in float32 only", got=precision, remedy="take openvino or torch"
            )
        available = ort.get_available_providers()
        self.device: str = "cpu" if device == "auto" else device
        wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(self.device)
        if wanted not in available:
            raise UsageError("ONNX Runtime cannot use this device", got=device, expected=", ".join(available))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self._session: Any = ort.InferenceSession(data, options, providers=[wanted])
        except _ort_errors() as error:
            raise BundleError(f"ONNX Runtime cannot run {where}", got=" ".join(str(error).split())[:300]) from error
        (self._input,) = self._session.get_inputs()

    def __call__(self, batch: Floats) -> Floats:
        if self._session is None:
            raise UsageError("the engine is closed")
        given = _checked(batch, len(self._input.shape))
        _require_size(given, self._input.shape)
        (out,) = self._session.run(None, {self._input.name: given})
        return np.asarray(out, dtype=np.float32)

    def close(self) -> None:
        self._session = None


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names if hasattr(state, name)))


class _OpenVino:
    """OpenVINO, on a CPU or an Intel GPU."""

    name: str = "openvino"

    def __init__(
        self, data: tuple[bytes, bytes], where: str, threads: int, how: tuple[Precision, int], device: str
    ) -> None:
        ov = openvino()
        core = ov.Core()
        precision, kept = how
        self.device: str = "cpu" if device == "auto" else device
        place = {"cpu": "CPU", "gpu": "GPU"}.get(self.device)
        if place is None or not any(name.split(".")[0] == place for name in core.available_devices):
            raise UsageError("OpenVINO cannot use this device", got=device, expected=", ".join(core.available_devices))
        if precision == "auto":
            precision = "bfloat16" if place == "CPU" and cpu_facts().fast_bfloat16 else "float32"
        self.precision: str = precision
        # Said outright: left alone, OpenVINO takes bfloat16 wherever the processor has it.
        # In int8 it is what lies between the whole numbers.
        low = precision == "bfloat16" or (precision == "int8" and cpu_facts().fast_bfloat16)
        settings = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"} if place == "CPU" else {}
        try:
            model = core.read_model(model=data[0], weights=data[1])
            self._shape = [dim.get_length() if dim.is_static else None for dim in model.input(0).partial_shape]
            parts = answer_apart(model, kept) if low and kept else None
            # a network of no more convolutions than are kept is computed in float32 as a whole
            hints = ("bf16" if low and (parts or not kept) else "f32", "f32")
            self._requests: list[Any] = [
                core.compile_model(part, place, {**settings, "INFERENCE_PRECISION_HINT": hint}).create_infer_request()
                for part, hint in zip(parts or (model,), hints, strict=False)
            ]
        except RuntimeError as error:
            raise BundleError(f"OpenVINO cannot run {where}", got=" ".join(str(error).split())[:300]) from error

    def __call__(self, batch: Floats) -> Floats:
        if not self._requests:
            raise UsageError("the engine is closed")
        given = _checked(batch, len(self._shape))
        _require_size(given, self._shape)
        values: list[Any] = [given]
        for request in self._requests:
            request.infer(values, share_inputs=True)
            values = [tensor.data for tensor in request.output_tensors]
        # a copy: the next call writes into the same memory
        return np.array(values[0], dtype=np.float32)

    def close(self) -> None:
        self._requests = []


def _require_size(batch: Floats, shape: list[Any]) -> None:
    if any(isinstance(want, int) and want != have for have, want in zip(batch.shape, shape, strict=True)):
        expected = tuple(want if isinstance(want, int) else "N" for want in shape)
        raise DataError("a batch does not fit the network", got=batch.shape, expected=expected)


def _onnxruntime() -> Any:
    """ONNX Runtime without its telemetry.

    Its import (1.31 on Linux) opens a file of events in the user's home and reports to a web service, unless this
    variable says no; ``disable_telemetry_events`` comes too late for that, but holds where another package imported it.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
