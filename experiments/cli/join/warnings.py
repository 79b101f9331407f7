"""Warnings about a plan before it is paid for: its sizes, its rules, its texts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pandas as pd

from analysis.fitting.identifiability import typical
from analysis.laws.catalogue import law
from analysis.text import bytes_text, human
from experiments.cli.join.identifiability import few_trunks
from experiments.cli.join.plan import Planned
from experiments.cli.join.rule_warnings import rule_warnings
from models.sizes import Rung
from scaling.data.holdout import Judged
from scaling.launch import slots
from scaling.planning.estimate import worker_memory
from scaling.planning.plan import Plan
from scaling.spec import one_of_each

# Share of the requested range of sizes, in logarithms. Below half of it, the interval of the
# exponent of N is about twice as wide as the grid was designed for.
NARROW = 0.5
# Standard deviation of the loss between held-out documents, relative to it: .055, .074, .066 and
# .053 at the median run of the quickstart, isoflop, repeat and tune studies of results/reference
# (`loss_stderr` times the root of their 14 documents; of tune, runs within 5% of the least loss of
# their N and D); other texts differ more or less.
DOCUMENT_SPREAD = 0.065
SEED_SPREAD = 0.0058  # of the loss between seeds, in results/reference/isoflop
# With so many documents the first is about as small as the second: (.065 / .0058)² = 126, and 90
# with the documents' spread of the quickstart.
ENOUGH_DOCUMENTS = 100
MOST_HELD_OUT = 0.2  # of the text; more would be missing in training
FEW_PIECES = 9  # a large text is cut into four to eight held-out pieces, whatever their share


def too_large(plan: Plan) -> Iterator[str]:
    """A warning if a worker on a CPU needs more memory than this machine has."""
    if slots.this_host().platform != "cpu":
        return
    need = max(map(worker_memory, one_of_each(plan.runs)))
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > has:
        yield (
            f"a worker needs {bytes_text(need)} and this machine has {bytes_text(has)}: it cannot "
            "train the largest runs. --device NAME --count K shows whether they fit elsewhere."
        )


def design_warnings(planned: Planned) -> list[str]:
    """One or two sentences for each weakness of the design."""
    few = (said for each in planned.judged for said in _few(planned, each))
    return [*_narrow(planned.plan), *_thin(planned.plan), *rule_warnings(planned.plan), *few]


def _narrow(plan: Plan) -> Iterator[str]:
    rungs = sorted(plan.rungs, key=lambda rung: rung.target)
    if plan.study.grid.params_convention == "total" or len(rungs) < 2:
        return
    least, most = rungs[0], rungs[-1]
    wanted = math.log(most.target / least.target)
    totals = sorted(rung.counts.total for rung in rungs)
    if math.log(totals[-1] / totals[0]) >= NARROW * wanted:
        return
    yield (
        f"N total, which a fit uses by default, varies only by a factor "
        f"{totals[-1] / totals[0]:.2g} ({human(totals[0])} to {human(totals[-1])}), while "
        f"sizes by a factor {most.target / least.target:.2g} were asked for: embedding and head "
        f"are {_embedded(least):.0%} of the smallest model, {_embedded(most):.0%} of the largest. "
        "Take a smaller vocabulary, a tied head or larger sizes, or fit with `scaling fit "
        f"RUNS --params-column params_{plan.study.grid.params_convention}`."
    )


def _thin(plan: Plan) -> list[str]:
    """Coefficients of the Chinchilla law that would rest on few trunks. Typical coefficients, on
    which this depends, are known for no other law."""
    if plan.study.law != "chinchilla" or plan.study.sweep:
        return []
    rows = [(float(run.params.total), float(run.tokens), run.trunk_id) for run in plan.points]
    runs = pd.DataFrame(rows, columns=["params", "tokens", "trunk_id"])
    usual = typical(runs["params"].to_numpy(), runs["tokens"].to_numpy())
    return few_trunks(law(plan.study.law), usual, runs)


def _embedded(rung: Rung) -> float:
    return 1 - rung.counts.non_embedding / rung.counts.total


def _few(planned: Planned, judged: Judged) -> Iterator[str]:
    if judged.set is not None or judged.documents >= ENOUGH_DOCUMENTS:
        return
    error = DOCUMENT_SPREAD / math.sqrt(judged.documents)
    corpus = planned.plan.corpus
    every = corpus.train_documents + corpus.holdout_documents
    fraction = planned.plan.study.data.holdout_fraction * ENOUGH_DOCUMENTS / judged.documents
    remedy = "Give the text as more documents (JSON lines, or NUL bytes between them)"
    if judged.documents < judged.held_out:
        tokens = math.ceil(judged.tokens * ENOUGH_DOCUMENTS / judged.documents)
        tokens = min(tokens, judged.held_out_tokens)
        remedy = f"Give [evaluation] tokens = {tokens} to judge more of them"
    elif fraction <= MOST_HELD_OUT and judged.held_out >= FEW_PIECES:
        remedy = f"[data] holdout_fraction = {fraction:.2g} would hold out about as many"
    yield (
        f"the held-out loss is over {judged.documents} of {every:,} documents, and its standard "
        f"error will be {error:.1%} or more, above the scatter of seeds ({SEED_SPREAD:.1%}): "
        f"documents differ by about {DOCUMENT_SPREAD:.1%}, and {ENOUGH_DOCUMENTS} of them would "
        "bring the error down to that scatter. All runs are evaluated on the same text, so their "
        f"order is known better than this. {remedy}."
    )
