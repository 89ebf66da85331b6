"""Running a network: torch, ONNX Runtime and OpenVINO behind one seam, and the proof that they say the same.

An engine is a function from a batch to outputs, (N, C, *spatial) → (N, …), both float32. ``open_engine`` is the door of
OpenVINO and ONNX Runtime; ``export_onnx`` writes the graph they run; ``measure_parity`` compares an engine with the
network it came from, and ``choose`` takes the fastest of those that agree.

Large images will stream through an engine in windows into a sink that the task implements (``add(slab, where)`` for
each finished slab, ``finish()`` for the answer), so that full-resolution probabilities of all classes
never stand in memory.
"""

from medmap.runtime.engines import Engine, EngineKind, Precision, open_engine
from medmap.runtime.graph import export_onnx, read_onnx
from medmap.runtime.machine import CpuFacts, available_cores, cpu_facts, peak_rss_bytes
from medmap.runtime.parity import Parity, choose, measure_parity

__all__ = [
    "CpuFacts",
    "Engine",
    "EngineKind",
    "Parity",
    "Precision",
    "available_cores",
    "choose",
    "cpu_facts",
    "export_onnx",
    "measure_parity",
    "open_engine",
    "peak_rss_bytes",
    "read_onnx",
]
