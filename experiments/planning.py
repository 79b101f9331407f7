"""Where a study meets the law it is meant for: its plan, checked against what it must identify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.units import scientific
from experiments.bills import Bill, bill_of
from experiments.cli import number
from experiments.design import identifies
from experiments.devices import device_named
from experiments.preparing import Preparation
from models.devices import Device
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.data.documents import SourceMissing
from scaling.data.holdout import Judged, judged
from scaling.data.prepare import declared, prepare, remembered, unread
from scaling.planning.plan import Plan, draft
from scaling.planning.refusals import Refusals
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.study import DataSection, Misspelt, Study, study_bytes, study_of
from scaling.tasks.mix import TaskMix


@dataclass(frozen=True)
class Planned:
    """A plan, what its runs are judged on, and how well its design identifies the study's law."""

    plan: Plan
    condition_number: float | None  # null when the study names no law of params and tokens
    judged: tuple[Judged, ...]  # by sequence length; none where the corpus is not here


def plan_file(path: Path) -> Planned:
    """`plan_bytes` of what a study's file holds."""
    return plan_bytes(study_bytes(path), str(path))


def plan_bytes(toml: bytes, name: str) -> Planned:
    """`plan_study` of the bytes of a study's file; `name` says in messages which.

    Raises Refusal as `study_of` and `plan_study` do; for misspelt words together with what else
    is wrong with the study that was meant.
    """
    try:
        return plan_study(study_of(toml, name))
    except Misspelt as error:
        refusals = Refusals()
        refusals.add(str(error))
        with refusals.gathered():
            _without_text(error.meant, unread, Refusals())
        raise Refusal("\n".join(refusals)) from error


def plan_study(study: Study) -> Planned:
    """Plan the runs of a study, and tokenise its corpus if that was not done before.

    What needs no text is checked first, and all that is wrong with it is refused together. A study
    that declares the size of its corpus is planned without it where it is not at hand;
    `plan.corpus.declared` says so.
    Raises Refusal where a study cannot be trained, where no run could answer its [tasks], and
    where it names a law that its grid cannot identify (`design.identifies`).
    """
    data, cache = study.data, cache_folder() / "corpora"
    refusals, corpus = Refusals(), None
    try:
        corpus = remembered(data, cache)
    except SourceMissing as error:
        if data.train_tokens is not None:
            return _without_text(study, declared, refusals)
        refusals.add(str(error))
    except Refusal as error:
        refusals.add(str(error))
    if corpus is None:
        _without_text(study, unread, refusals)
        try:
            with Preparation() as watch:
                corpus = prepare(data, cache, watch)
        except SourceMissing:  # another library looked for it
            if data.train_tokens is None:
                raise
            return _without_text(study, declared, refusals)
    made = _checked(study, corpus.info, refusals)
    judges = []
    for length in sorted({run.sequence_length for run in made.plan.runs}):
        with refusals.gathered():
            judges.append(judged(corpus, length, round(study.evaluation.tokens)))
    with refusals.gathered():
        _refuse_tasks(made.plan, corpus)
    refusals.raise_any()
    return replace(made, judged=tuple(judges))


def _without_text(
    study: Study, sized: Callable[[DataSection], CorpusInfo], refusals: Refusals
) -> Planned:
    """The plan on a corpus of a size. Raises Refusal for all that is wrong, before and in it."""
    with refusals.gathered():
        made = _checked(study, sized(study.data), refusals)
    refusals.raise_any()
    return made


def _checked(study: Study, info: CorpusInfo, refusals: Refusals) -> Planned:
    """The plan on a corpus of which no more is known; what is wrong with it is added."""
    made = draft(study, info)
    for said in made.refusals:
        refusals.add(said)
    condition = None
    with refusals.gathered():
        condition = identifies(made)
    return Planned(made.plan, condition, ())


def _refuse_tasks(plan: Plan, corpus: Corpus) -> None:
    """Raises Refusal for tasks that no run could train on or answer."""
    from scaling.tasks.questions import every_question, refuse_cut
    from scaling.tasks.vocabulary import vocabulary_of

    seen: list[tuple[TaskMix, int]] = []
    for run in plan.runs:
        if run.tasks is None or (run.tasks, run.sequence_length) in seen:
            continue
        seen.append((run.tasks, run.sequence_length))
        vocabulary = vocabulary_of(corpus)
        refuse_cut(run.tasks, vocabulary, run.sequence_length)
        every_question(run.tasks, vocabulary, run.sequence_length)


def refuse_above(max_flops: str | None, flops: float) -> None:
    """Raise Refusal where a grid would train more than the user's --max-flops."""
    limit = number("--max-flops", max_flops)
    if limit is not None and flops > limit:
        raise Refusal(
            f"--max-flops {max_flops}: the grid would train {scientific(flops)} exact FLOPs. Raise "
            "the limit, or drop sizes, budgets or seeds."
        )


def asked_devices(
    names: tuple[str, ...],
    count: int,
    mfu: float | None,
    measured: Path | None = None,
    own: Path | None = None,
) -> list[Device]:
    """The devices of --device, of the shipped table and of one's own file.

    Raises Refusal for unknown ones, a --count or an --mfu of none.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise Refusal(f"--mfu {mfu:g} is not a share of the peak: give e.g. 0.4.")
    if count < 1:
        raise Refusal(f"--count {count}: give at least 1.")
    if not names and (mfu is not None or count > 1 or measured is not None or own is not None):
        raise Refusal(
            "--count, --mfu, --measured and --devices are of a device: name it with --device."
        )
    if mfu is not None and measured is not None:
        raise Refusal(f"--mfu {mfu:g} and --measured {measured}: give one of the two.")
    return [device_named(name, own) for name in names]


def grid_costs(
    plan: Plan,
    devices: Sequence[Device],
    count: int,
    mfu: float | None,
    dtype: str | None,
    measured: Path | None = None,
) -> list[Bill]:
    """What the whole grid costs on each device of which a share of its peak is known."""
    bills = (
        bill_of(plan, device, count=count, mfu=mfu, dtype=dtype, file=measured)
        for device in devices
    )
    return [bill for bill in bills if bill is not None]
