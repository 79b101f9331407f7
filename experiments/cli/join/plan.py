"""The plan of a study, checked together with the law that it must identify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.text import scientific
from experiments.cli.app import number
from experiments.cli.join.identifiability import identifies
from experiments.cli.progress import Preparation
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.data.documents import SourceMissing
from scaling.data.holdout import Judged, judged
from scaling.data.prepare import declared, prepare, remembered, unread
from scaling.data.sets import prepare_sets
from scaling.planning.plan import Plan, draft
from scaling.planning.refusals import Refusals
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.study import DataSection, Misspelt, Study, study_bytes, study_of
from scaling.tasks.mix import TaskMix


@dataclass(frozen=True)
class Planned:
    """A plan, the text its runs are evaluated on, and how well it identifies the study's law."""

    plan: Plan
    condition_number: float | None  # None where the study names no law of params and tokens
    # By sequence length, the held-out text and then sets; empty where the corpus is not here.
    judged: tuple[Judged, ...]


def plan_file(path: Path) -> Planned:
    """The plan of a study file. Raises Refusal as `plan_bytes` does."""
    return plan_bytes(study_bytes(path), str(path))


def plan_bytes(toml: bytes, name: str) -> Planned:
    """The plan of the bytes of a study file, called `name` in messages.

    Raises Refusal as `study_of` and `plan_study` do; misspelt words are reported together with what
    else is wrong with the study that was meant.
    """
    try:
        return plan_study(study_of(toml, name))
    except Misspelt as error:
        refusals = Refusals()
        refusals.add(*error.lines)
        with refusals.gathered():
            _without_text(error.meant, unread, Refusals())
        raise Refusal([*refusals]) from error


def plan_study(study: Study) -> Planned:
    """Plan the runs of a study, and tokenise its corpus if that was not done before.

    Checks that need no text come first, and all their errors are reported together. If the corpus
    is not on this machine and the study declares its size, it is planned without the text, and
    `plan.corpus.declared` is true.
    Raises Refusal for a study that cannot be trained, whose [tasks] no run could answer, or whose
    grid cannot identify the law it names (`identifies`).
    """
    data, cache = study.data, cache_folder() / "corpora"
    refusals, corpus = Refusals(), None
    try:
        corpus = remembered(data, cache)
    except SourceMissing as error:
        if data.train_tokens is not None:
            return _without_text(study, declared, refusals)
        refusals.add(*error.lines)
    except Refusal as error:
        refusals.add(*error.lines)
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
    judges, sets, asked = [], dict[str, Corpus](), study.evaluation
    with refusals.gathered(), Preparation() as watch:
        sets = prepare_sets(asked.sets, data, corpus, cache, watch)
    for length in sorted({run.sequence_length for run in made.plan.runs}):
        with refusals.gathered():
            judges.append(judged(corpus, length, round(asked.tokens)))
        for name, text in sets.items():
            with refusals.gathered():
                judges.append(judged(text, length, round(asked.tokens), name))
    with refusals.gathered():
        _refuse_tasks(made.plan, corpus)
    refusals.raise_any()
    plan = made.plan.judged_on({name: text.info.fingerprint for name, text in sets.items()})
    return replace(made, plan=plan, judged=tuple(judges))


def _without_text(
    study: Study, sized: Callable[[DataSection], CorpusInfo], refusals: Refusals
) -> Planned:
    """The plan on a corpus of known size. Raises Refusal for all errors together."""
    with refusals.gathered():
        made = _checked(study, sized(study.data), refusals)
    refusals.raise_any()
    return made


def _checked(study: Study, info: CorpusInfo, refusals: Refusals) -> Planned:
    """The plan on a corpus of known size; its errors are added to `refusals`."""
    made = draft(study, info)
    for said in made.refusals:
        refusals.add(said)
    condition = None
    with refusals.gathered():
        condition = identifies(made)
    return Planned(made.plan, condition, ())


def _refuse_tasks(plan: Plan, corpus: Corpus) -> None:
    """Raise Refusal for tasks that no run could train on or answer."""
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
    """Raise Refusal if a grid would train more than --max-flops."""
    limit = number("--max-flops", max_flops)
    if limit is not None and flops > limit:
        raise Refusal(
            f"--max-flops {max_flops}: the grid would train {scientific(flops)} exact FLOPs. Raise "
            "the limit, or drop sizes, budgets or seeds."
        )
