"""Running a network: torch, ONNX Runtime and OpenVINO behind one seam, and the proof that they say the same.

An engine is a function from a batch to outputs, (N, C, *spatial) → (N, …), both float32. ``open_engine`` is the door of
OpenVINO and ONNX Runtime; ``export_onnx`` writes the graph they run; ``measure_parity`` compares an engine with the
network it came from, ``quantized`` makes an int8 one, and ``choose`` takes the fastest of those that agree.

Large images stream through an engine in windows (``slide``) into a sink (``add(slab, where)`` for each finished slab,
``finish()`` for the answer), so that scores of all classes never stand in memory at the source's resolution. Sinks for
labels, overlapping regions and certainty are here; a task may bring its own.
"""

from medmap.runtime.boxes import fused, suppressed
from medmap.runtime.engines import Engine, EngineKind, Precision, open_engine
from medmap.runtime.expected import ExpectedOverlap, ExpectedOverlapSink, mean_dice
from medmap.runtime.graph import export_onnx, read_onnx
from medmap.runtime.machine import CpuFacts, available_cores, cpu_facts, passing_bytes, peak_rss_bytes, rss_bytes
from medmap.runtime.memory import MemoryPlan, plan_memory
from medmap.runtime.parity import Comparison, Parity, choose, compare_engines, measure_parity
from medmap.runtime.quantize import quantized
from medmap.runtime.sinks import CertaintySink, LabelSink, RegionSink, ScoreSink, Several
from medmap.runtime.tiles import each_window
from medmap.runtime.windows import Box, Place, Sink, Windows, occupied, slide

__all__ = [
    "Box",
    "CertaintySink",
    "Comparison",
    "CpuFacts",
    "Engine",
    "EngineKind",
    "ExpectedOverlap",
    "ExpectedOverlapSink",
    "LabelSink",
    "MemoryPlan",
    "Parity",
    "Place",
    "Precision",
    "RegionSink",
    "ScoreSink",
    "Several",
    "Sink",
    "Windows",
    "available_cores",
    "choose",
    "compare_engines",
    "cpu_facts",
    "each_window",
    "export_onnx",
    "fused",
    "mean_dice",
    "measure_parity",
    "occupied",
    "open_engine",
    "passing_bytes",
    "peak_rss_bytes",
    "plan_memory",
    "quantized",
    "read_onnx",
    "rss_bytes",
    "slide",
    "suppressed",
]
