"""Export with proof: the engines of a bundle, measured on real prepared inputs and again on phantoms at every site."""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medmap.bundle.files import SUMS
from medmap.bundle.graphs import INT8, ONNX, SECOND, heads_kept, open_graphs, write_graphs
from medmap.bundle.spec import BundleSpec
from medmap.bundle.stored import PARITY, Bundle, member_module, shared_recipe
from medmap.bundle.weights import WEIGHTS
from medmap.errors import BundleError, UsageError
from medmap.runtime import (
    Comparison,
    Engine,
    EngineKind,
    Parity,
    Precision,
    compare_engines,
    cpu_facts,
    open_engine,
    quantized,
)
from medmap.runtime.parity import ENSEMBLE_AXIS, TOLERANCE, Likeness

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medmap.bundle.ensemble import Ensemble

Floats = NDArray[np.float32]
Format = Literal["onnx", "openvino"]
PHANTOMS = 2
PHANTOM_SEED = 20_250_101
MAX_PARITY_BYTES = 2**30
LAST_OF_BOXES = 3  # of numbers, in a detector's (N, members, places, numbers)
AGAIN = 1.5  # another processor rounds elsewhere: on phantoms it may differ by half more than it did at the export


def phantom_inputs(shape: tuple[int, ...], count: int = PHANTOMS) -> Floats:
    """Seeded noise in the shape of prepared inputs: what a bundle keeps instead of a patient's pixels.

    Args:
        shape: Of one batch, (N, C, *spatial); N is ignored.
        count: How many phantoms.

    Example:
        >>> phantom_inputs((7, 1, 4, 4)).shape
        (2, 1, 4, 4)
    """
    rng = np.random.default_rng(PHANTOM_SEED)
    return rng.standard_normal((count, *shape[1:]), dtype=np.float32)


def pack_parity(spec: BundleSpec, states: Sequence[Mapping[str, Tensor]], inputs: Floats) -> bytes:
    """Phantom inputs and the outputs torch gives for them, as the content of ``parity.npz``.

    Args:
        spec: The bundle's spec.
        states: The members' weights.
        inputs: (N, C, *spatial) or (N, members, C, *spatial) float32 phantoms.

    Raises:
        BundleError: The members are no networks, the weights do not fit, or an output is not finite.
    """
    from medmap.bundle.ensemble import Ensemble

    modules = [
        member_module(member, state, f"member {index}")
        for index, (member, state) in enumerate(zip(spec.members, states, strict=True))
    ]
    engine = open_engine("torch", module=Ensemble(modules, shared_recipe=shared_recipe(spec)), device="cpu")
    outputs = np.concatenate([engine(inputs[i : i + 1]) for i in range(len(inputs))])
    engine.close()
    if not np.isfinite(outputs).all():
        raise BundleError("the network's outputs for phantom inputs are not finite")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=np.asarray(inputs, np.float32), outputs=outputs)
    return buffer.getvalue()


def read_parity(path: Path) -> tuple[Floats, Floats]:
    """Inputs and reference outputs of ``parity.npz``, its declared sizes checked before anything is unpacked.

    Raises:
        BundleError: No npz, other arrays than these two, objects, or sizes beyond reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != ["inputs.npy", "outputs.npy"]:
                raise BundleError(f"{path} holds something else than inputs and outputs")
            inputs, outputs = (_read_array(archive, name) for name in ("inputs.npy", "outputs.npy"))
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        raise BundleError(f"{path} is not a whole npz file", got=str(error)[:200]) from error
    if inputs.ndim < 3 or not len(inputs) or len(inputs) != len(outputs):
        raise BundleError(f"{path} holds no matching inputs and outputs", got=(inputs.shape, outputs.shape))
    return inputs, outputs


def _read_array(archive: zipfile.ZipFile, name: str) -> Floats:
    info = archive.getinfo(name)
    if info.file_size > MAX_PARITY_BYTES:
        raise BundleError(f"{name} of {PARITY} is too large", got=f"{info.file_size} bytes", expected=MAX_PARITY_BYTES)
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} is of npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        wanted = math.prod(shape) * 4
        if dtype != np.dtype("<f4") or fortran or wanted > info.file_size:
            raise ValueError(f"{name} declares {shape} of {dtype} in {info.file_size} bytes")
        data = file.read(wanted + 1)
    if len(data) != wanted:
        raise ValueError(f"{name} has {len(data)} bytes for {shape}")
    return np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)


def export(
    bundle: Bundle,
    formats: Sequence[Format],
    inputs: Floats,
    *,
    truths: Sequence[Any] | NDArray[Any] | None = None,
    scales: Floats | None = None,
    make_card: Callable[[BundleSpec], str] | None = None,
) -> Bundle:
    """Add the exported model and the measured parity of each engine to a bundle.

    Args:
        bundle: The bundle; its folder is replaced by the new one, whole or not at all.
        formats: ``onnx`` (measured on ONNX Runtime), ``openvino`` (measured on OpenVINO) or both; one ONNX
            file serves both.
        inputs: (N, C, *spatial) real prepared inputs, or (N, members, C, *spatial) where members have recipes of their
            own. The numbers are kept, the inputs are not; phantoms take their place in ``parity.npz``.
        truths: (N, *spatial) labels of the inputs (255: not known), or (N, regions, *spatial) of overlapping
            regions, for networks that answer each voxel: bfloat16 and int8 then pass by what they lose of Dice; for
            detectors the boxes in each input (``Detect``): by AP50.
        scales: Prepared inputs of other patients that the scales of a network in 8-bit integers are fitted on
            (``quantized``): one is made, too, and judged on ``inputs``. None makes none.
        make_card: Gives the card for the spec as it now is; None keeps the card.

    Returns:
        The bundle as it now stands; ``spec.engines`` holds the parity by ``engine`` or ``engine:precision``.

    Raises:
        UsageError: An unknown format or no inputs, or 8-bit integers for another engine than OpenVINO.
        MissingExtraError: 8-bit integers without NNCF.
        BundleError: The network cannot be exported; the bundle is as it was.
    """
    if unknown := sorted(set(formats) - {"onnx", "openvino"}):
        raise UsageError("a bundle cannot be exported to this", got=unknown[0], expected="onnx or openvino")
    if not formats or not len(inputs):
        raise UsageError("an export needs a format and at least one prepared input")
    int8 = scales is not None
    if int8 and "openvino" not in formats:
        raise UsageError("int8 runs on OpenVINO", got=", ".join(formats), remedy="export to openvino")
    network = bundle.ensemble()
    with tempfile.TemporaryDirectory(prefix="medmap-export-") as folder:
        made = _graphs(bundle, network, inputs, scales, Path(folder))
        found = _measure(network, Path(folder), _trials(formats, int8), inputs, truths, _Comparisons(bundle))
    states = [bundle.state_dict(index) for index in range(len(bundle.spec.members))]
    older = {key: parity for key, parity in bundle.spec.engines.items() if not key.endswith(":int8")}
    engines = {**older, **_verdicts(found, older, known=truths is not None)}
    own = {"spec.json", WEIGHTS, "CARD.md", PARITY, ONNX, SECOND, *INT8, SUMS}
    files = {name: (bundle.path / name).read_bytes() for name in bundle.hashes if name not in own}
    spec = bundle.spec.model_copy(update={"engines": engines})
    return Bundle.write(
        bundle.path,
        spec,
        states,
        card=make_card(spec) if make_card else (bundle.path / "CARD.md").read_text(encoding="utf-8"),
        parity_inputs=phantom_inputs(inputs.shape),
        files={**files, **made},
        overwrite=True,
    )


def _graphs(
    bundle: Bundle, network: nn.Module, inputs: Floats, scales: Floats | None, folder: Path
) -> dict[str, bytes]:
    """Write the graphs of all members into a folder, in 8 bits too where scales are given; their contents by name."""
    write_graphs(cast("Ensemble", network), inputs, folder)
    if scales is not None:
        for name, data in zip(INT8, quantized(folder / ONNX, scales, kept=heads_kept(bundle.spec)), strict=True):
            (folder / name).write_bytes(data)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


class _Comparisons:
    """How a bundle's engines are compared: by what its task makes of the numbers."""

    def __init__(self, bundle: Bundle) -> None:
        self.spec = bundle.spec
        self._likeness: Likeness | None = None
        if self.spec.task == "detect":
            from medmap.bundle.boxes import BoxLikeness

            self._likeness = BoxLikeness.of(bundle)

    def of(self, engine: Engine) -> Comparison:
        """A comparison with nothing gathered yet."""
        if self._likeness is None:
            # of overlapping regions, or several findings, each output stands for itself
            exclusive = self.spec.kind != "multilabel"
            return Comparison(engine, class_axis=ENSEMBLE_AXIS, exclusive=exclusive)
        return Comparison(engine, class_axis=LAST_OF_BOXES, likeness=self._likeness.again())


def _verdicts(found: Sequence[Parity], older: Mapping[str, Any], *, known: bool) -> dict[str, Any]:
    """What is now known of each engine; of fewer bits, what was found beside a truth outlasts inputs without one.

    Without truths the inputs may be noise, of which masks and boxes are chance; the same weights were judged before.
    What was refused beside a truth stays so for every engine, and what cannot run has failed.
    """
    said = {_key(parity): parity.as_json() for parity in found}

    def outlasted(key: str) -> bool:
        judged = not known and key in older and said[key]["max_abs"] is not None
        return judged and (":" in key or not older[key]["passed"])

    seen = {key: {"phantom_max_abs": parity["phantom_max_abs"]} for key, parity in said.items()}
    return {key: {**older[key], **seen[key]} if outlasted(key) else parity for key, parity in said.items()}


def _key(parity: Parity) -> str:
    return parity.engine if parity.precision == "float32" else f"{parity.engine}:{parity.precision}"


def _trials(formats: Sequence[Format], int8: bool) -> list[tuple[EngineKind, Precision]]:
    trials: list[tuple[EngineKind, Precision]] = [(name, "float32") for name in formats]
    if "openvino" in formats and cpu_facts().fast_bfloat16:
        trials.append(("openvino", "bfloat16"))
    return [*trials, ("openvino", "int8")] if int8 else trials


def _measure(
    network: nn.Module,
    folder: Path,
    trials: Sequence[tuple[EngineKind, Precision]],
    inputs: Floats,
    truths: Sequence[Any] | NDArray[Any] | None,
    compared: _Comparisons,
) -> list[Parity]:
    """The parity of each engine; one that cannot run this network has failed, and says why."""
    comparisons: list[Comparison] = []
    engines: list[Engine] = []
    failed: list[Parity] = []
    for name, precision in trials:
        try:
            engines.append(open_graphs(name, folder, compared.spec, precision=precision))
            comparisons.append(compared.of(engines[-1]))
        except BundleError as error:
            failed.append(_unable(name, precision, len(inputs), error))
    reference = open_engine("torch", module=network, device="cpu")
    try:
        found = compare_engines(reference, comparisons, inputs, truths, phantoms=phantom_inputs(inputs.shape))
    finally:
        for engine in engines:
            engine.close()
    return [*found, *failed]


def _unable(name: str, precision: Precision, cases: int, error: BundleError) -> Parity:
    return Parity(name, precision, cases, None, None, 0.0, False, TOLERANCE[precision], reason=error.what)


def verify(bundle: Bundle) -> list[Parity]:
    """Run the bundle's phantoms on every engine at this site and compare with the outputs kept in the bundle.

    Fewer bits differ on phantoms as they did when the bundle was exported, and may not differ by much more.

    Args:
        bundle: A loaded bundle, so one whose hashes agree.

    Returns:
        One row for torch, and one for each engine the bundle was exported to.

    Raises:
        BundleError: The bundle has no phantoms, or an engine cannot run it.
    """
    if PARITY not in bundle.hashes:
        raise BundleError(f"{bundle.path} holds no phantoms to compare with", remedy="export the bundle first")
    inputs, outputs = read_parity(bundle.path / PARITY)
    torch_engine = open_engine("torch", module=bundle.ensemble(), device="cpu")
    rows = compare_engines(outputs, [_Comparisons(bundle).of(torch_engine)], inputs)
    torch_engine.close()
    if ONNX not in bundle.hashes:
        return rows
    for key in bundle.spec.engines:
        name, _, low = key.partition(":")  # the spec admits no other names
        precision = cast("Precision", low or "float32")
        try:
            engine = open_graphs(cast("EngineKind", name), bundle.path, bundle.spec, precision=precision)
        except BundleError as error:
            rows.append(_unable(name, precision, len(inputs), error))
            continue
        rows.append(on_phantoms(bundle, key, engine, inputs, outputs))
        engine.close()
    return rows


def on_phantoms(bundle: Bundle, key: str, engine: Engine, inputs: Floats, outputs: Floats) -> Parity:
    """The parity of an open engine on a bundle's phantoms.

    Args:
        bundle: The bundle.
        key: ``engine`` or ``engine:precision``, as in its spec.
        engine: Ready to run.
        inputs: Phantoms of ``parity.npz``.
        outputs: What torch gave for them.
    """
    (parity,) = compare_engines(outputs, [_Comparisons(bundle).of(engine)], inputs)
    seen = bundle.spec.engines[key].get("phantom_max_abs")
    if not isinstance(seen, int | float) or engine.precision == "float32":
        return parity
    allowed = AGAIN * float(seen) + TOLERANCE["float32"] * max(1.0, float(np.abs(outputs).max()))
    return replace(parity, passed=parity.max_abs is not None and parity.max_abs <= allowed)
