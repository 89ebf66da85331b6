"""How fast headers are de-identified on one core, and how much memory an archive takes.

Writes an archive of small synthetic CT slices and de-identifies it in processes of their own. Prints one JSON line a
comparison (``name peer ours theirs unit ratio same_answer``); ``goal`` and ``goal_met`` where there is one. Peers:
pydicom that only reads and writes each file, the floor; the package dicom-anonymizer where it is installed
(``--peer FOLDER`` names a folder to import it from). Rates are files a second of processor time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

GOAL_FILES_S = 100
GOAL_GROWTH = 1.2

MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
sys.path[:0] = [p for p in sys.argv[4:] if p]
source, output, who = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
files = lambda: (Path(entry.path) for entry in os.scandir(source))  # no list: it would be measured too
if who == "medmap":
    import medmap as mm
    from medmap.deidentify.table import rows
    rows()
    begin = time.process_time()
    mm.deidentify(source, output)
elif who == "pydicom":
    import pydicom
    output.mkdir()
    begin = time.process_time()
    for path in files():
        pydicom.dcmread(path).save_as(output / path.name)
else:
    from dicomanonymizer import anonymize_dicom_file
    output.mkdir()
    begin = time.process_time()
    for path in files():
        anonymize_dicom_file(str(path), str(output / path.name))
seconds = time.process_time() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"files_s": sum(1 for _ in files()) / seconds, "peak_mib": peak}))
"""


def midi(objects: int, pictures: int) -> None:
    """Print the score on a synthetic set after the MIDI-B challenge, by kind of action."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "deidentify"))
    from midi_b import score

    kinds, wrong = score(objects, pictures, seed=2026)
    failed = Counter(kind for kind, *_ in wrong)
    for kind in [*sorted(kinds), "all"]:
        count, bad = (kinds.total(), len(wrong)) if kind == "all" else (kinds[kind], failed[kind])
        share = round(100 * (1 - bad / count), 3)
        goal = {"goal": 99.93, "goal_met": share >= 99.93} if kind == "all" else {}
        peer = "best of the challenge"
        row(f"deidentify: MIDI-B kinds, {kind}", peer, share, 99.93, "% right", actions=count, wrong=bad, **goal)
    for kind, keyword, _, found in wrong[:20]:
        print(json.dumps({"wrong": kind, "attribute": keyword, "found": found[:80]}))


def archive(folder: Path, count: int) -> Path:
    """Small CT slices of ten patients; the header is that of a scanner, the picture 16 by 16."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "deidentify"))
    from objects import ct_slice, file_of

    folder.mkdir()
    ds = ct_slice(999999, PatientID="ID9999999")
    block = ds.private_block(0x0019, "SOME VENDOR", create=True)
    for element in range(40):
        block.add_new(element, "LO", f"private {element}")
    content = file_of(ds)
    for number in range(count):
        own = content.replace(b".999999", b".%06d" % (100000 + number)).replace(b"ID9999999", b"ID%07d" % (number % 10))
        (folder / f"{number:06}.dcm").write_bytes(own)
    return folder


def measured(source: Path, output: Path, who: str, peer: str = "") -> dict[str, float] | None:
    """Files a second and peak memory of one process, or None where the peer is not installed."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(source), str(output), who, peer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if who == "dicomanonymizer" and "No module named" in done.stderr:
            return None
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, peer: str, ours: float, theirs: float, unit: str, **more: object) -> None:
    """Print one comparison."""
    values = {"name": name, "peer": peer, "ours": round(ours, 3), "theirs": round(theirs, 1), "unit": unit}
    print(json.dumps({**values, "ratio": round(ours / theirs, 3), "same_answer": None, **more}), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="speed and memory of medmap deidentify")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20000, help="files of the archive whose memory is measured")
    parser.add_argument("--peer", default="", help="folder to import dicom-anonymizer from")
    parser.add_argument("--midi", action="store_true", help="only the score on a set after the MIDI-B challenge")
    parser.add_argument("--pictures", type=int, default=60, help="pictures in that set")
    words = parser.parse_args()
    if words.midi:
        midi(400, words.pictures)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = archive(folder / "few", words.files)
        ours = measured(few, folder / "ours", "medmap")
        floor = measured(few, folder / "floor", "pydicom")
        other = measured(few, folder / "other", "dicomanonymizer", words.peer)
        assert ours is not None
        assert floor is not None
        goal = {"goal": GOAL_FILES_S, "goal_met": ours["files_s"] >= GOAL_FILES_S}
        row(
            "deidentify: headers, one core",
            "pydicom reads and writes",
            ours["files_s"],
            floor["files_s"],
            "files/s",
            **goal,
        )
        if other is not None:
            row(
                "deidentify: headers, one core",
                "dicom-anonymizer",
                ours["files_s"],
                other["files_s"],
                "files/s",
                **goal,
            )
        many = measured(archive(folder / "many", words.many), folder / "out", "medmap")
        assert many is not None
        growth = {"goal": GOAL_GROWTH, "goal_met": many["peak_mib"] <= GOAL_GROWTH * ours["peak_mib"]}
        row(
            f"deidentify: peak memory, {words.many} files",
            f"{words.files} files",
            many["peak_mib"],
            ours["peak_mib"],
            "MiB",
            **growth,
        )


if __name__ == "__main__":
    main()
