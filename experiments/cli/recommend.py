"""`scaling recommend`: from a law to a decision."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from analysis.text import human
from experiments.cli.app import (
    File,
    Folder,
    LawSource,
    Number,
    Numbers,
    app,
    described,
    number,
    numbers,
)
from experiments.cli.join.devices import ON_NO_DEVICE, DeviceOptions
from experiments.cli.join.planned import is_planned, other_study, other_table
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import joined, say
from experiments.cli.words import each_once
from scaling.store.manifest import read_manifest
from scaling.store.records import Refusal
from scaling.store.sealed import OtherFormat
from scaling.study import Study, read_study, study_bytes, study_of

if TYPE_CHECKING:
    from analysis.fitting.source import Source
    from experiments.cli.join.beside import Beside
    from experiments.cli.join.shapes import Shapes

# The options by their names in version 0.1, which are still accepted.
FORMER = {
    "--served": "--inference-tokens", "--flat-bottom": "--near-optimal", "--beside": "--compare",
}  # fmt: skip
Rules = Annotated[tuple[str, ...] | None, arg(metavar="RULE …")]


@dataclass(frozen=True)
@described
class Extra:
    """What is shown besides N*, D* and the loss.

    Args:
        near_optimal: Show other sizes and shapes that are nearly as good, and the price of a size
            that is off by a factor of 2.
        compare: Compare with other laws on the same runs, other counts of N, and what Hoffmann,
            Besiroglu and Kaplan would train.
        rules: Learning rate and batch size by these rules: steplaw-2025, deepseek-2024,
            kaplan-2020, or fits of steplaw_lr and steplaw_batch. Without a name, by all published
            rules.
        plot: Draw the loss, N* and D*, tokens per parameter and the map of the loss into this
            folder, with the recommended runs marked.
    """

    near_optimal: bool = False
    compare: bool = False
    rules: Rules = None
    plot: Folder = None


NOTHING_ELSE = Extra()


@app.command(former=FORMER)
def recommend(
    source: LawSource,
    /,
    *,
    flops: Numbers = (),
    loss: Number = None,
    params: Number = None,
    tokens: Number = None,
    inference_tokens: Number = None,
    unique_tokens: Number = None,
    by: Literal["law", "runs"] | None = None,
    flop_count: Literal["6nd", "exact"] = "6nd",
    study: File = None,
    level: float | None = None,
    output: Outputs = TO_TERMINAL,
    extra: Annotated[Extra, OmitArgPrefixes] = NOTHING_ELSE,
    cost: Annotated[DeviceOptions, OmitArgPrefixes] = ON_NO_DEVICE,
) -> None:
    """Recommend how large a model to train, and on how many tokens.

    For a budget, N* and D* have the least loss at C = 6ND, with N counted as in the fit. They are
    computed from the law, or from the minima of the runs themselves where the law fits badly
    near them. Instead of a budget, give a loss to reach with the least compute, a model size, or a
    number of tokens. For a fit in a results folder, the nearest shape that its study can build is
    named too.

        scaling recommend results/quickstart/fits/chinchilla.json --flops 1e14 1e15
        scaling recommend published:chinchilla-2022 --flops 5.76e23 --near-optimal --compare
        scaling recommend published:besiroglu-2024 --loss 2.1 --inference-tokens 2T
        scaling recommend published:muennighoff-2023 --flops 1e22 --unique-tokens 25B
        scaling recommend published:besiroglu-2024 --flops 1e22 --rules --plot figures \\
            --study experiments/accelerator.toml --flop-count exact \\
            --device h100-sxm --count 256 --mfu 0.4

    Args:
        flops: Training budgets.
        loss: Loss to reach with the least compute, in nats/token.
        params: Size of the model to train.
        tokens: Number of tokens to train on.
        inference_tokens: With --loss, tokens that the model will read and write in use, each at a
            cost of 2N FLOPs.
        unique_tokens: Number of different tokens that exist; training beyond them repeats data.
        by: Source of N*: the optimum of the law, or the isoFLOP minima of the fitted runs,
            extrapolated in compute (the loss is then still the law's). By default, the one that
            better predicts runs left out of it, or a mean of both where they are close.
        flop_count: What a budget counts: 6ND, or the exact FLOPs of the shapes of a ladder.
        study: A study whose ladder builds the shapes; the default is the one in the results folder
            of the fit.
        level: Level of the intervals; the default is that of the fit.
        extra: Further sections of the answer.
        cost: Time and cost of each answer on these devices; --mfu is then required.
    """
    from analysis.recommend.recommend import recommend as recommended
    from analysis.recommend.shapes import answer_exactly, shapes_for
    from experiments.cli.join import recommendation as parts
    from experiments.cli.join.saved import law_source

    law = law_source(source)
    devices = cost.named()
    shapes = _shapes(law, source, study)
    if flop_count == "exact" and shapes is None:
        raise Refusal(
            "--flop-count exact counts the shapes of a ladder. Give --study STUDY.toml whose "
            "[model] builds sizes."
        )
    _refuse_around(extra, unique_tokens, inference_tokens)
    known: dict[str, Any] = {
        "flops": each_once("--flops", numbers("--flops", flops)) or None,
        "loss": number("--loss", loss),
        "params": number("--params", params),
        "tokens": number("--tokens", tokens),
        "served": number("--inference-tokens", inference_tokens) or 0.0,
        "unique_tokens": number("--unique-tokens", unique_tokens),
    }
    build = None if shapes is None else shapes.nearest
    advice = recommended(law, **known, by=by, level=level, build=build)
    # One set of shapes: the shape named best is the best of those that are extra.
    offered = []
    if shapes is not None and (flop_count == "exact" or (extra.near_optimal and flops)):
        offered = [shapes_for(law, each, shapes.around(each.params), flop_count) for each in advice]
    if flop_count == "exact":
        exact = (
            answer_exactly(law, each, around, level=level)
            for each, around in zip(advice, offered, strict=True)
        )
        advice = replace(advice, answers=tuple(exact), flop_count=flop_count)
    found = []
    if shapes is not None and flop_count == "6nd":
        found.append(parts.nearest_shapes(advice))
    if offered:
        found.append(parts.shape_tables(offered))
    if extra.near_optimal:
        found.append(parts.flat_bottoms(law, advice))
    if extra.compare:
        found.append(parts.others(law, source, advice))
    if extra.rules is not None:
        found.append(parts.rule_tables(law, advice, each_once("--rules", extra.rules), shapes))
    if devices:
        found.append(parts.costs(advice, devices, cost))
    # Everything is computed before anything is printed: what is refused is refused first.
    drawn = []
    if extra.plot is not None:
        drawn = output.draw(extra.plot, lambda into: parts.draw(law, advice, into))
    output.write({**advice.json(), **joined(found).json})
    say("\n\n".join([advice.text(), *(part.text for part in found)]))
    for path in drawn:
        say(str(path))
    if not source.startswith("published:") and unique_tokens is None:
        run = f"--params {human(advice[0].params)} --tokens {human(advice[0].tokens)}"
        say(f"\nNext, once it is trained: scaling predict {source} {run} --observed LOSS")


def _shapes(law: Source, source: str, study: Path | None) -> Shapes | None:
    """The shapes of the study given, or of the one in the results folder that a fit lies in."""
    from analysis.fitting.fit import Fit
    from analysis.fitting.source import convention
    from experiments.cli.join.beside import beside
    from experiments.cli.join.shapes import shapes_of

    fit = Path(source)
    own = fit.parent.parent / "study.toml"
    if study is not None:
        return shapes_of(read_study(study), convention(law))
    if fit.parent.name == "fits" and own.exists() and isinstance(law, Fit):
        return shapes_of(_planned(own, beside(fit, law)), convention(law))
    return None


def _planned(path: Path, table: Beside) -> Study:
    """The study of a results folder. Raises Refusal if a fit in it is of another, or if it is not
    the one that was planned."""
    toml, folder = study_bytes(path), path.parent
    said, remedy = table.another, f"Fit {folder} again"
    if is_planned(folder) and not said:
        with suppress(OtherFormat):
            manifest = read_manifest(folder)
            said = other_study(folder, toml, manifest) or other_table(folder, manifest)
            remedy = "Give `scaling run` the study again"
    if said:
        raise Refusal(f"{said}. {remedy}, or name a study to build shapes of with --study.")
    return study_of(toml, str(path))


def _refuse_around(extra: Extra, unique_tokens: str | None, inference_tokens: str | None) -> None:
    """Raise Refusal for sections that need an optimum of one training run on fresh tokens."""
    if not (extra.near_optimal or extra.compare):
        return
    sections = "--near-optimal and --compare need a budget to train on fresh tokens"
    if unique_tokens is not None:
        raise Refusal(f"{sections}. Give them without --unique-tokens {unique_tokens}.")
    if inference_tokens is not None:
        raise Refusal(
            f"{sections}, without serving. Give them without --inference-tokens {inference_tokens}."
        )
