"""Graphs as files: ONNX written with only the batch left open, all of them read only when nothing but a graph."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import write_atomically
from medmap.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "image", "output"
# The exporter's own operator set: nothing is converted after export, and every engine since 2023 reads it.
OPSET = 18
# protobuf's limit is 2 GiB; beyond it weights would have to lie outside the file, which medmap refuses to read.
MAX_ONNX_BYTES = 2**31 - 2**24
MAX_XML_BYTES = 2**28
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def export_onnx(module: nn.Module, example: NDArray[np.float32], path: str | Path) -> None:
    """Write a network as one ONNX file whose batch size, and nothing else, is open.

    The network itself is left as it is: a copy on the CPU, in evaluation mode, is exported. The file holds no paths,
    stack traces or comments of the machine that made it, and no weights outside itself; it is written aside, then
    renamed.

    Args:
        module: Maps (N, C, *spatial) float32 to one tensor (N, …).
        example: (N, C, *spatial) float32, any values; its size without the batch is the file's.
        path: Where to write.

    Raises:
        BundleError: The network holds something that cannot be written as ONNX, or is larger than 2 GiB.
        OSError: The disk is full or the folder not writable; what stood there is untouched.
    """
    import torch

    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise BundleError(
            "the network is too large for one ONNX file",
            got=f"{size} bytes of weights",
            expected=f"at most {MAX_ONNX_BYTES}",
            remedy="run it with torch",
        )
    # two in the batch: torch.export takes a dimension of one for a constant
    batch = torch.from_numpy(np.ascontiguousarray(np.repeat(example[:1], 2, axis=0), dtype=np.float32))
    network = copy.deepcopy(module).cpu().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (batch,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise BundleError(
                f"the network {type(module).__name__} cannot be written as ONNX",
                got=" ".join(str(error.__cause__ or error).split())[:300],
                remedy="run it with torch",
            ) from error
    if program is None:
        raise BundleError(f"the network {type(module).__name__} cannot be written as ONNX", remedy="run it with torch")
    model = program.model_proto
    _forget_origin(model)
    _require_open_batch(model, example.shape)
    data = model.SerializeToString(deterministic=True)
    _refuse_more_than_a_graph(model, str(path))
    write_atomically(path, data)


def read_onnx(path: str | Path) -> bytes:
    """The bytes of an ONNX file that is nothing but a graph of standard operators with its weights inside.

    Engines are given these very bytes and no path, so that there is no folder from which anything could be loaded.

    Raises:
        BundleError: Absent, truncated, no ONNX, too large, weights outside the file, or operators that need custom
            code.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = Path(path)
    again = "export the bundle again"
    try:
        size = path.stat().st_size
        if size > MAX_ONNX_BYTES:
            raise BundleError(f"{path} is too large for an ONNX file", got=f"{size} bytes", expected=MAX_ONNX_BYTES)
        data = path.read_bytes()
        model = onnx.ModelProto.FromString(data)
    except OSError as error:
        raise BundleError(f"{path} cannot be read", got=error.strerror, remedy=again) from error
    except DecodeError as error:
        raise BundleError(f"{path} is not a whole ONNX file", got=str(error)[:200], remedy=again) from error
    if not model.graph.node or not model.graph.output:
        raise BundleError(f"{path} holds no network", remedy=again)
    _refuse_more_than_a_graph(model, str(path))
    return data


def read_graph(path: str | Path) -> tuple[bytes, bytes]:
    """The bytes of an OpenVINO graph and of the weights beside it.

    Raises:
        BundleError: One of the two is absent, too large or no graph.
    """
    xml = Path(path)
    parts = []
    for file, limit in ((xml, MAX_XML_BYTES), (xml.with_suffix(".bin"), MAX_ONNX_BYTES)):
        try:
            size = file.stat().st_size
            if size > limit:
                raise BundleError(f"{file} is too large", got=f"{size} bytes", expected=limit)
            parts.append(file.read_bytes())
        except OSError as error:
            raise BundleError(f"{file} cannot be read", got=error.strerror, remedy="export the bundle again") from error
    if b"<!ENTITY" in parts[0] or not parts[0].lstrip().startswith(b"<?xml"):
        raise BundleError(f"{xml} is no OpenVINO graph", remedy="export the bundle again")
    return parts[0], parts[1]


def _refuse_more_than_a_graph(model: Any, where: str) -> None:
    """Refuse weights outside the file and operators that are not ONNX's own, wherever they hide.

    Tensors hang in initialisers, sparse initialisers, attributes, subgraphs, functions and training blocks: every
    message is walked by its type, so that a place that a later ONNX adds is walked too.
    """
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        # 1 is TensorProto.EXTERNAL
        if kind == "TensorProto" and (message.external_data or message.data_location == 1):
            location = {entry.key: entry.value for entry in message.external_data}.get("location", "not stated")
            raise BundleError(
                f"{where} takes its weights from another file",
                got=repr(location[:200]),
                expected="weights inside the file",
                remedy="do not use it; export the bundle again",
            )
        if kind in {"NodeProto", "FunctionProto", "OperatorSetIdProto"} and message.domain not in DOMAINS:
            raise BundleError(
                f"{where} needs operators that are not ONNX's own",
                got=repr(message.domain[:200]),
                expected="standard operators only",
                remedy="do not use it; export the bundle again",
            )


def _messages(root: Any) -> Iterator[Any]:
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                # a repeated field is a container without a descriptor, a single message has one
                waiting.extend([value] if hasattr(value, "DESCRIPTOR") else value)


def _forget_origin(model: Any) -> None:
    """Remove what the exporter says about the machine: file paths in stack traces, comments."""
    for message in list(_messages(model)):
        for name in ("metadata_props", "doc_string"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)


def _require_open_batch(model: Any, shape: tuple[int, ...]) -> None:
    (given,), outputs = model.graph.input, model.graph.output
    sizes = [dim.dim_value or dim.dim_param for dim in given.type.tensor_type.shape.dim]
    answer = [dim.dim_value or dim.dim_param for dim in outputs[0].type.tensor_type.shape.dim]
    if len(outputs) != 1 or not isinstance(sizes[0], str) or sizes[1:] != list(shape[1:]) or isinstance(answer[0], int):
        raise BundleError(
            "the exported network does not keep its batch open",
            got=f"input {sizes}, output {answer}",
            expected=f"input ['batch', {', '.join(map(str, shape[1:]))}] and one output",
            remedy="run it with torch",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks through warnings and loggers of parts that no user knows; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
