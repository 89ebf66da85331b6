"""Everything wrong with a dataset, worst first, before a network learns it.

>>> import medmap as mm
>>> for issue in mm.check(mm.open_dataset("study/")):    # doctest: +SKIP
...     print(issue.severity, issue.message)
"""

from medmap.check.boxes import require_usable_boxes
from medmap.check.door import CHECKS, WHEN_ASKED, check
from medmap.check.issue import Issue, worst_first
from medmap.check.leaks import content_hashes, leakage
from medmap.check.mend import Mending, mend_geometry, mending_issue
from medmap.check.page import write_check_report
from medmap.check.refusals import cases_refused, refused_boxes

__all__ = [
    "CHECKS",
    "WHEN_ASKED",
    "Issue",
    "Mending",
    "cases_refused",
    "check",
    "content_hashes",
    "leakage",
    "mend_geometry",
    "mending_issue",
    "refused_boxes",
    "require_usable_boxes",
    "worst_first",
    "write_check_report",
]
