"""`scaling predict` and `recommend`: from a law to a decision."""

from __future__ import annotations

from pathlib import Path

from experiments.cli import JsonFile, LawSource, Numbers, app, law_source, numbers
from scaling.records import Refusal, write_json
from scaling.study import read_study


@app.command
def predict(
    source: LawSource,
    /,
    *,
    params: Numbers = (),
    tokens: Numbers = (),
    table: Path | None = None,
    observed: float | None = None,
    to_json: JsonFile = None,
) -> None:
    """Predict the loss of runs: one by --params and --tokens, or every row of a table.

    The interval is that of the fitted curve at the fit's own level: it holds the uncertainty of
    the coefficients, not the noise of a single run nor an error in the law's form.

        scaling predict published:chinchilla-2022 --params 70e9 --tokens 1.4e12
        scaling predict results/quickstart/fits/chinchilla.json --params 2M --tokens 20M

    Args:
        source: A file that `scaling fit` wrote, or a published law of `scaling laws`.
        params: N, in the convention of the law; one for each of --tokens.
        tokens: D, one for each of --params.
        table: Predict every row of this run table instead.
        observed: The loss that a single predicted run came to: did it fall inside?
        to_json: Write the predictions to this file too.
    """
    import pandas as pd

    from analysis.forecast import predict as predicted
    from analysis.quality import read_runs

    law = law_source(source)
    if table is None:
        if not params or len(params) != len(tokens):
            raise Refusal(
                f"--params has {len(params)} values and --tokens {len(tokens)}: give as many of "
                "each, at least one, or --table RUNS."
            )
        rows = pd.DataFrame(
            {"params": numbers("--params", params), "tokens": numbers("--tokens", tokens)}
        )
    else:
        rows = read_runs(table, require=[c for c in law.law.features if c != "flops"])
    if observed is not None and len(rows) != 1:
        raise Refusal(f"--observed is one loss, and there are {len(rows)} runs. Give --table.")
    predictions = predicted(law, rows)
    for each in predictions:
        print(each.sentence)
    if observed is not None:
        print(predictions[0].verdict(observed))
    if to_json:
        write_json(to_json, {"predictions": [each.to_json() for each in predictions]})


@app.command
def recommend(
    source: LawSource,
    /,
    *,
    flops: Numbers,
    level: float = 0.9,
    study: Path | None = None,
    to_json: JsonFile = None,
) -> None:
    """Say how large a model to train, and on how many tokens, for a compute budget.

    N* and D* minimise the law's loss at C = 6ND, with N in the convention of the fit. A fit
    from a results folder also names the nearest shape its study can build.

        scaling recommend results/quickstart/fits/chinchilla.json --flops 1e14 1e15
        scaling recommend published:chinchilla-2022 --flops 5.76e23

    Args:
        source: A file that `scaling fit` wrote, or a published law of `scaling laws`.
        flops: Training budgets.
        level: Of the intervals.
        study: A study file whose ladder builds the shapes, if not the one beside the fit.
        to_json: Write the recommendations to this file too.
    """
    from analysis.recommend import convention, to_text
    from analysis.recommend import recommend as recommended
    from analysis.recommend import to_json as as_json
    from analysis.units import human

    law = law_source(source)
    beside = study or _study_beside(source)
    build = None
    if beside is not None:
        from experiments.planning import builder

        build = builder(read_study(beside), convention(law))
    advice = recommended(law, numbers("--flops", flops), level=level, build=build)
    print(to_text(law, advice))
    if build is not None:
        print("\nNearest shapes of the study's ladder")
        for each in advice:
            shape = each.shape
            if shape is None:
                print(f"  {each.flops:.3g} FLOPs: no shape of the ladder is near")
                continue
            print(
                f"  {each.flops:.3g} FLOPs: {shape['n_layers']} layers × {shape['d_model']} wide, "
                f"{human(shape['params'])} parameters ({shape['error']:+.1%})"
            )
    if to_json:
        write_json(to_json, as_json(law, advice))


def _study_beside(source: str) -> Path | None:
    """The study file of the results folder that a fit lies in, if it lies in one."""
    fit = Path(source)
    path = fit.parent.parent / "study.toml"
    return path if fit.parent.name == "fits" and path.exists() else None
