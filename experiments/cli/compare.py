"""`scaling compare`: which law forecasts best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from experiments.cli.app import Numbers, RunsPath, app, numbers
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.table_options import AS_NAMED, Options, say_left_out
from experiments.cli.text import say
from experiments.cli.words import each_once

LawNames = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAW …")]


@app.command
def compare(
    runs: RunsPath,
    /,
    *,
    laws: LawNames,
    cut: Numbers = (),
    output: Outputs = TO_TERMINAL,
    run_table: Options = AS_NAMED,
) -> None:
    """Compare how well laws forecast: fit each below a compute cut, score it above.

    A low error on the rows that were fitted is no evidence; a good forecast of larger runs is. Each
    law is fitted to the runs below a cut and scored on the runs above. "Inside 90%" is the share of
    these later runs inside the intervals that `scaling predict` gives, and "(curve)" the share
    inside the intervals of the curve alone. The last rows are means over the later runs, in which
    each run counts once, though several cuts may score it. A law is the best only where its error
    is clearly smaller than that of every other law: the interval of the difference, computed from
    the later runs with those off one trunk together, lies above 0.

        scaling compare results/quickstart --laws chinchilla kaplan_nd
        scaling compare my_runs.csv --laws chinchilla kaplan_nd --cut 1e20 3e20

    Args:
        laws: Laws to compare, as `scaling laws` names them.
        cut: Fit the runs with at most this many FLOPs (6ND). By default there are three cuts, which
            50, 70 and 85% of the runs lie below.
        run_table: The columns and rows to use.
    """
    from analysis.forecast.compare import compare as compared
    from analysis.laws.catalogue import law as law_named
    from analysis.runs.table import usable

    named = [law_named(name) for name in each_once("--laws", _names(laws))]
    features = dict.fromkeys(column for each in named for column in each.features)
    table = run_table.read(runs, require=(*features, *(each.target for each in named[:1])))
    say_left_out(usable(table).excluded)
    found = compared(table, named, cuts=numbers("--cut", cut) or None)
    output.write(found.to_json())
    say(found.text())
    if found.best is not None:
        same = "" if run_table == AS_NAMED else ", with the same options of the table"
        say(f"Next: scaling fit {runs} --law {found.best}{same}")


def _names(words: Sequence[str]) -> list[str]:
    """Laws between spaces or commas; the columns of `separable:x,y` belong to its name."""
    from analysis.laws.catalogue import LAWS, own_laws

    known = {*LAWS, *own_laws(), "separable"}
    names: list[str] = []
    for word in map(str.strip, ",".join(words).split(",")):
        begins = word.partition(":")[0] in known
        if names and names[-1].startswith("separable:") and not begins:
            names[-1] += f",{word}"
        else:
            names.append(word)
    return names
