"""What the machine says about itself, on Linux and elsewhere."""

import os
import subprocess
import sys

import pytest

from medmap.runtime import available_cores, cpu_facts, machine, peak_rss_bytes

CPUINFO = """processor : 0
model name : Some Xeon
flags : fpu avx512f avx512_bf16 avx512_vnni amx_bf16 amx_tile

processor : 1
model name : Another
flags : fpu
"""


def test_the_first_processor_speaks_for_all(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    facts = cpu_facts()
    assert (facts.model, facts.avx512_bf16, facts.amx_bf16, facts.vnni) == ("Some Xeon", True, True, True)
    assert facts.fast_bfloat16
    assert facts.as_json()["vnni"] is True


@pytest.mark.parametrize("flags", ["fpu avx2", "amx_bf16"])  # a tile format without tiles is none
def test_an_older_processor_has_no_bfloat16(tmp_path, monkeypatch, flags):
    (tmp_path / "cpuinfo").write_text(f"model name : Old\nflags : {flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert not cpu_facts().fast_bfloat16


def test_without_cpuinfo_as_on_macos(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "absent")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    facts = cpu_facts()
    assert facts.model
    assert (facts.cores, facts.fast_bfloat16, facts.vnni) == (6, False, False)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("1000 100000", 1), ("?", 8)])
def test_the_mask_and_the_containers_quota_bound_the_cores(tmp_path, monkeypatch, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cores() == cores


def test_peak_memory_is_in_bytes():
    peak = peak_rss_bytes()
    assert peak is not None
    assert 10 * 2**20 < peak < 2**40


def test_what_the_parent_held_is_not_the_childs(tmp_path, monkeypatch):
    held = bytearray(os.urandom(2**20) * 300)  # written to, so resident
    code = "from medmap.runtime import peak_rss_bytes; print(peak_rss_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(child.stdout) < 250 * 2**20 < len(held) < peak_rss_bytes()
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "absent")
    assert peak_rss_bytes() >= len(held)


ALONE = """
import os, sys
from pathlib import Path
from medmap.runtime import machine, passing_bytes
if len(sys.argv) > 1:
    machine._PEAK_ANEW = Path(sys.argv[1])
held = bytearray(os.urandom(2**20) * 300)
del held
print(passing_bytes(lambda: None), passing_bytes(lambda: len(os.urandom(2**20) * 200)))
"""


def test_what_a_call_takes_is_not_what_was_held_before(tmp_path):
    """In a process of its own: what the allocator keeps is nobody's call."""
    run = [sys.executable, "-c", ALONE]
    nothing, much = map(int, subprocess.run(run, capture_output=True, check=True, text=True).stdout.split())
    assert nothing < 100 * 2**20
    assert 150 * 2**20 < much < 280 * 2**20
    again = subprocess.run([*run, str(tmp_path / "absent/file")], capture_output=True, check=True, text=True)
    nothing, much = map(int, again.stdout.split())
    assert nothing > 250 * 2**20, "where the peak cannot be counted anew, the earlier one is told"
    assert much > 150 * 2**20
