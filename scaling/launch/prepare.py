"""A results folder made ready for workers: its study, its plan, and what is to be tried again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scaling.data.corpus import load
from scaling.data.verified import digest_of
from scaling.launch.source import source_digest
from scaling.planning.plan import Plan, plan_table
from scaling.spec import RunSpec, planned_run
from scaling.store.failpoint import failpoint
from scaling.store.manifest import PLAN, Manifest, PlannedRun
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal, table_bytes
from scaling.store.results import Results, results_at, unfinished
from scaling.store.run_record import Status
from scaling.store.sealed import OtherFormat
from scaling.store.table import RUN_TABLE


def manifest_of(place: Path | Results, plan: Plan, study_toml: bytes) -> Manifest:
    """The plan of a study as the manifest of these results. Only reads."""
    results = results_at(place)
    specs = (_as_long_as_trained(results, spec) for spec in plan.runs)
    return Manifest.made(
        study=plan.study.name,
        study_sha256=hashlib.sha256(study_toml).hexdigest(),
        source_sha256=source_digest({spec.architecture for spec in plan.runs}),
        corpora=_digests(plan),
        runs=[planned_run(spec, plan.corpus) for spec in specs],
    )


def _digests(plan: Plan) -> dict[str, str]:
    """The digests of the tokens that the runs are to read, by the names of corpora."""
    named = {plan.corpus.fingerprint, *(text for run in plan.runs for _, text in run.sets)}
    digests = {}
    for name in sorted(named):
        with suppress(Refusal):  # it is not in the cache, of which a launch says more
            if found := digest_of(load(name, cache_folder() / "corpora")):
                digests[name] = found
    return digests


def _as_long_as_trained(results: Results, spec: RunSpec) -> RunSpec:
    """A trunk that ended longer than it is asked for stays so: its row says what it has."""
    if spec.run_kind == "trunk":
        with suppress(Refusal):
            record = results.record(spec.run_id)
            if record is not None and record.ended and record.steps > spec.schedule.steps:
                return replace(spec, schedule=replace(spec.schedule, steps=record.steps))
    return spec


@dataclass(frozen=True)
class Prepared:
    """A results folder that is ready for workers."""

    todo: list[PlannedRun]  # the runs still to train, in the plan's order
    notes: tuple[str, ...]  # what of the plan that was there before is replaced, a line each


@contextmanager
def prepared(
    place: Path | Results, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> Iterator[Prepared]:
    """Write the study, the plan and every new run, and hold the folder as long as it is trained in.

    Finished runs are kept. A trunk that a new budget needs longer is planned again and goes on
    from its last checkpoint. Raises OtherFormat for a folder of a newer or older version, and
    Refusal where others train another plan in it than this one, or one that this one adds to.
    """
    results = results_at(place)
    results.look()
    plan_before(results)  # refused before anything is touched
    manifest = manifest_of(results, plan, study_toml)
    results.refuse_unusable(unfinished(results, manifest, retry))
    with ExitStack() as life:
        with results.changing():
            # Not before: of two that wait to begin, neither is training yet.
            hold = life.enter_context(results.holding())
            before = plan_before(results)
            clash = "" if before is None else _beside(results, before, manifest)
            if clash and not hold.is_alone():
                raise Refusal(clash)
            _refuse_foreign(results, study_toml)
            _refuse_other_tokens(results, before, manifest)
            results.write("study.toml", study_toml)
            failpoint("study-written")
            results.write("plan.csv", table_bytes("plan.csv", plan_table(plan)))
            failpoint("plan-written")
            results.write(PLAN, manifest.as_file())
            failpoint("manifest-written")
        waiting = unfinished(results, manifest, retry)
        for run in waiting:
            results.make_ready(manifest, run)
            failpoint("planned")
        yield Prepared(waiting, _notes(before, manifest))


def prepare(
    results: Path | Results, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> list[PlannedRun]:
    """As `prepared`, for whoever trains in this very process; returns the runs still to train."""
    with prepared(results, plan, study_toml, retry) as ready:
        return ready.todo


def plan_before(results: Results) -> Manifest | None:
    """The plan of a folder as it is; null where there is none, or one that is damaged.

    Raises OtherFormat for results of a newer or older version.
    """
    try:
        return results.manifest()
    except OtherFormat:
        raise
    except Refusal:
        return None


def _beside(results: Results, present: Manifest, wanted: Manifest) -> str:
    """Why a plan may not take the place of one that others are training; empty if it may."""
    if wanted.source_sha256 != present.source_sha256:
        return (
            f"{results} is being trained by source {present.source_sha256[:12]} of this program, "
            f"and this is source {wanted.source_sha256[:12]}. Stop the others, or wait until "
            "they have ended; then give the command again."
        )
    if not wanted.extends(present):
        return (
            f"{results} is being trained for study {present.study_sha256[:12]}, and this is study "
            f"{wanted.study_sha256[:12]}, which leaves runs of that one out. Keep all its runs "
            f"and only add to them, or stop the others first; {results}/study.toml is the study "
            "that they train."
        )
    return ""


def _refuse_other_tokens(results: Results, before: Manifest | None, wanted: Manifest) -> None:
    """Raise Refusal where a corpus of the same name now has other tokens than the runs there read.

    It was made again, say by another version of `tokenizers`.
    """
    for name, digest in wanted.corpora.items():
        read = digest if before is None else before.corpora.get(name, digest)
        if read != digest:
            raise Refusal(
                f"corpus {name} in {cache_folder()} has tokens of digest {digest[:12]}, and the "
                f"runs in {results} read those of {read[:12]}. Bring back that folder of the "
                "cache, or train anew in another folder with --results."
            )


def _refuse_foreign(results: Results, study_toml: bytes) -> None:
    """Raise Refusal where files lie in the place of ours, and nothing shows that they are ours."""
    if results.read(PLAN) is not None or results.run_ids():
        return
    tables = (RUN_TABLE, "scores.parquet")  # of which a launch that was killed before leaves none
    killed = results.read("study.toml") == study_toml
    for name in tables if killed else ("study.toml", "plan.csv", *tables):
        if results.read(name) is not None:
            raise Refusal(
                f"{results}/{name} is there without a plan or a run that made it, and would be "
                "replaced. Move it away, or name another folder with --results."
            )


def _notes(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """What of a plan is replaced, where it is another's."""
    notes = []
    if before is not None and before.source_sha256 != now.source_sha256:
        notes.append(
            f"the program has changed since this folder was planned: source "
            f"{before.source_sha256[:12]} is replaced by {now.source_sha256[:12]}"
        )
    if before is not None and before.study_sha256 != now.study_sha256:
        notes.append(
            f"the study has changed since this folder was planned: {before.study_sha256[:12]} is "
            f"replaced by {now.study_sha256[:12]}"
        )
    return tuple(notes)
