"""What this machine can do: cores that may be used, number formats the processor knows, memory used at most."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_PEAK_ANEW = Path("/proc/self/clear_refs")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class CpuFacts:
    """The processor, as far as it matters for running a network.

    Args:
        model: Its name, or the architecture where the system does not tell.
        cores: Cores this process may use.
        avx512_bf16: Vector products in bfloat16.
        amx_bf16: Matrix tiles in bfloat16.
        vnni: Vector products in 8-bit integers (AVX512 or AVX).
    """

    model: str
    cores: int
    avx512_bf16: bool = False
    amx_bf16: bool = False
    vnni: bool = False

    @property
    def fast_bfloat16(self) -> bool:
        """Whether bfloat16 is computed and not emulated."""
        return self.avx512_bf16 or self.amx_bf16

    def as_json(self) -> dict[str, Any]:
        """Plain values for a bundle's provenance."""
        return asdict(self)


def cpu_facts() -> CpuFacts:
    """What the processor can do, read from ``/proc/cpuinfo``; elsewhere (macOS) only its architecture and cores.

    Example:
        >>> cpu_facts().cores >= 1
        True
    """
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    flags = set(fields.get("flags", "").split())
    return CpuFacts(
        model=fields.get("model name") or platform.machine() or "unknown",
        cores=available_cores(),
        avx512_bf16="avx512_bf16" in flags,
        amx_bf16={"amx_bf16", "amx_tile"} <= flags,
        vnni=bool({"avx512_vnni", "avx_vnni"} & flags),
    )


def available_cores() -> int:
    """Cores this process may use: the affinity mask and a container's quota, not what the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no quota is set where none can be read
    return max(cores, 1)


def rss_bytes() -> int:
    """The memory this process holds now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held, in bytes; None where the system does not tell (Windows)."""
    try:  # Linux: getrusage would also count what the parent held when it started this process
        status = _STATUS.read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes on Linux, bytes on macOS: getrusage(2) of either
    return peak if sys.platform == "darwin" else peak * 1024


def passing_bytes(call: Callable[[], object]) -> int:
    """Memory that a call took at its most beyond what the process holds after it, in bytes.

    Linux is asked to count the peak anew first (``/proc/self/clear_refs``); where it refuses, an earlier peak counts.

    Args:
        call: What is measured.
    """
    with contextlib.suppress(OSError):  # a system without it, or a container that does not allow it
        _PEAK_ANEW.write_text("5", encoding="ascii")
    call()
    return max(0, (peak_rss_bytes() or 0) - rss_bytes())
