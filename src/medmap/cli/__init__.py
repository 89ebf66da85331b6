"""The command line: one sentence a command, one exit code a kind of failure."""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED, DEFECT, UNUSABLE, WRONG_USAGE = 130, 70, 3, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``medmap`` with its arguments and exit.

    Exit codes: 0 done; 1 done, with findings at error level; 2 wrong usage; 3 data that can't be used;
    4 configuration; 5 bundle refused; 6 missing extra; 70 a defect of medmap's own; 130 interrupted.
    """
    signal.signal(signal.SIGTERM, _terminated)
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    sys.exit(run([w for w in words if w != "--debug"], debug))


def _terminated(*_: object) -> None:
    """A polite request to end is treated as Ctrl-C: state is saved, the exit code is 130."""
    raise KeyboardInterrupt


def run(words: Sequence[str], debug: bool = False) -> int:
    """Run one command and return its exit code; errors become a sentence on standard error."""
    from medmap.cli.app import app
    from medmap.errors import MedmapError

    try:
        code = app(args=list(words), standalone_mode=False, prog_name="medmap")
        if code == INTERRUPTED:
            return _fail("interrupted", INTERRUPTED, debug)
        return code if isinstance(code, int) else 0
    except MedmapError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug)
    except MemoryError:
        return _fail(
            "there is not enough memory. Remedy: a smaller --memory, fewer or smaller images.", UNUSABLE, debug
        )
    except OSError as error:
        return _fail(*_system_sentence(error), debug)
    except Exception as error:  # noqa: BLE001  (the last door: nothing leaves as a bare traceback)
        if hasattr(error, "format_message"):
            if type(error).__name__ == "NoArgsIsHelpError":  # no mistake was made: the help stands alone
                sys.stderr.write(f"{error.format_message()}\n")
                return WRONG_USAGE
            return _fail(f"{error.format_message()} (medmap --help)", WRONG_USAGE, debug)
        if type(error).__name__ == "Exit":
            return int(getattr(error, "exit_code", 0))
        if type(error).__name__ == "Abort":
            return _fail("interrupted", INTERRUPTED, debug)
        what = (
            f"a defect of medmap's own: {type(error).__name__}: {error}. Remedy: --debug shows where; please report it."
        )
        return _fail(what, DEFECT, debug)


def _system_sentence(error: OSError) -> tuple[str, int]:
    """A sentence and a code for what the system refused: a place that cannot be written is wrong usage."""
    if error.args and isinstance(error.args[0], list):  # shutil.Error: (source, target, reason) of every file
        return f"files cannot be copied: {error.args[0][-1][-1]}. Remedy: check space and permission.", WRONG_USAGE
    what = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "free space or choose another place; a training goes on with --resume, a prediction too"
        return f"{where}{what}. Remedy: {remedy}.", WRONG_USAGE
    return f"the system refused: {where}{what}", UNUSABLE


def _fail(text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"medmap: {text}\n")
    return code


def started() -> float:
    """``time.time()`` at which this process began, so that a budget counts the imports too."""
    import psutil

    return min(time.time(), float(psutil.Process().create_time()))
