"""`scaling laws`: the laws that can be fitted, and the published coefficients."""

from __future__ import annotations

from experiments.cli.app import app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import say
from scaling.store.records import Refusal


@app.command
def laws(*, output: Outputs = TO_TERMINAL) -> None:
    """List the laws that can be fitted, and the published coefficients.

    scaling laws
    """
    from analysis.laws.catalogue import GROUP, LAWS, own_law, own_laws
    from analysis.laws.published import PUBLISHED

    known, broken = list(LAWS.values()), []
    for name in own_laws():
        try:
            known.append(own_law(name))
        except Refusal as refusal:
            broken.append(str(refusal))
    if output.to_json:
        of_law = ("name", "formula", "coefficients", "features", "source")
        of_published = ("coefficients", "params_convention", "source")
        laws_json = [{name: getattr(each, name) for name in of_law} for each in known]
        published_json = [
            {"name": each.name, "law": each.law.name}
            | {name: getattr(each, name) for name in of_published}
            for each in PUBLISHED.values()
        ]
        output.write({"laws": laws_json, "published": published_json})
    for law in known:
        say(f"{law.name}\n    {law.formula}\n    {', '.join(law.coefficients)}; {law.source}")
    say("\nLaws over your own columns: separable:COLUMN,COLUMN and bnsl_1:COLUMN to bnsl_3:COLUMN")
    say("Laws over learning-rate schedules, in Python: analysis.schedules.fit (multi-power law)")
    say("\n".join(broken) or f"Your own laws: entry points of installed packages, group {GROUP}")
    say("\nPublished coefficients, as published:NAME\n")
    for each in PUBLISHED.values():
        values = ", ".join(f"{name} = {value:g}" for name, value in each.coefficients.items())
        say(f"{each.name}\n    {each.law.name}: {values}")
        say(f"    N counts {each.params_convention}; {each.source}")
