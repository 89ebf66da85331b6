"""The door of OpenVINO, and its graphs in two parts: what leads to the answer, and the last steps in full precision."""

from __future__ import annotations

import sys
from typing import Any

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def openvino() -> Any:
    """OpenVINO without its telemetry.

    ``import openvino`` reports the import to a web analytics service and leaves a file in the user's home, unless the
    package ``openvino_telemetry`` is absent. To Python it is absent where ``sys.modules`` holds None for it; OpenVINO
    then takes its own silent stand-in. It stays absent: parts of OpenVINO are imported later.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def last_convolutions(network: Any, count: int) -> list[str]:
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
        if node.get_type_name() in CONVOLUTIONS:
            found.add(name)
            passed += 1
        waiting += [(given.get_source_output().get_node(), passed) for given in node.inputs() if passed < count]
    return sorted(found)


def from_last_convolutions(network: Any, count: int) -> set[str]:
    """Names of the last convolutions (``last_convolutions``) and of everything that depends on them."""
    after = set(last_convolutions(network, count))
    for node in network.get_ordered_ops():
        if any(one.get_source_output().get_node().get_friendly_name() in after for one in node.inputs()):
            after.add(node.get_friendly_name())
    return after


def answer_apart(network: Any, count: int) -> tuple[Any, Any] | None:
    """The graph in two: what comes before its last convolutions, and those with all that follows.

    Args:
        network: An OpenVINO model; it is taken apart and not to be used afterwards.
        count: Convolutions on each way to the answer that belong to the second part.

    Returns:
        Two models; the outputs of the first are the inputs of the second, in order; None where all convolutions are
        last ones, or none is.
    """
    ov, after = openvino(), from_last_convolutions(network, count)
    nodes = network.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() in CONVOLUTIONS]
    if not after or all(node.get_friendly_name() in after for node in convolutions):
        return None
    seen = set[str]()  # what depends on the image; the rest is constant and may belong to both
    cuts: dict[tuple[str, int], tuple[Any, list[Any]]] = {}  # an output of the first part, and who takes it
    for node in nodes:
        name, given = node.get_friendly_name(), [(one, one.get_source_output()) for one in node.inputs()]
        sources = [output.get_node().get_friendly_name() for _, output in given]
        if node.get_type_name() == "Parameter" or seen.intersection(sources):
            seen.add(name)
        for (target, output), source in zip(given, sources, strict=True):
            if name in after and source in seen - after:
                cuts.setdefault((source, output.get_index()), (output, []))[1].append(target)
    parameters, results, passed = network.get_parameters(), network.get_results(), []
    for output, targets in cuts.values():
        passed.append(ov.opset13.parameter(output.get_partial_shape(), output.get_element_type()))
        for target in targets:
            target.replace_source_output(passed[-1].output(0))
    return ov.Model([ov.opset13.result(one) for one, _ in cuts.values()], parameters), ov.Model(results, passed)
