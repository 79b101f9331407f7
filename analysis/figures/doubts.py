"""What a caption says against the fit it shows: figures are pasted where nothing else is read."""

from __future__ import annotations

import re

from analysis.caution import Source
from analysis.estimate import Status
from analysis.fit import Fit

LONG = 100  # characters of a sentence, beyond which what follows its first clause is left out


def doubts(source: Source) -> str:
    """The fit's status and what is doubtful about its runs, with a leading space; else empty."""
    if not isinstance(source, Fit):
        return ""
    said = ""
    if source.status is Status.WEAKLY_IDENTIFIED:
        said += " The fit is weakly identified."
    if source.status is Status.AT_BOUND:
        said += f" The fit is at the bound of {', '.join(source.at_bound) or 'a coefficient'}."
    if source.status is Status.FAILED:
        said += " The fit failed."
    if source.cautions:
        said += f" Doubtful: {'; '.join(_shortened(each) for each in source.cautions)}."
    return said


def _shortened(caution: str) -> str:
    """Its first sentence without what stands in brackets, or if that is long its first clause."""
    first = re.split(r"(?<=[a-z)\]0-9%])\. (?=[A-Z])", caution)[0]
    first = re.sub(r" \([^()]*\)", "", first).rstrip(".")
    return first if len(first) <= LONG else re.split(r"[:;] ", first)[0]
