"""Results taken from a folder to a bucket, or back: whole runs, each verified on its way.

A run replaces what the other place has of it only where it came further, so that nothing is lost
in either direction, and whoever is killed on the way gives the same command again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from scaling.store.attempt import remove_attempts, replace_record
from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.carry import Carrier, fetch
from scaling.store.bucket.states import Found
from scaling.store.checksums import Damaged, files_in
from scaling.store.claims import Owned, Replaced, claimed
from scaling.store.failpoint import failpoint
from scaling.store.folder import Folder
from scaling.store.manifest import PLAN, Manifest
from scaling.store.objects import Missing
from scaling.store.ready import run_folder
from scaling.store.records import Refusal
from scaling.store.results import Results
from scaling.store.run_record import RunRecord

STUDY = ("study.toml", "plan.csv", PLAN)  # in the order in which they are written
BESIDE = ("fits", "figures", "logs", "algorithms")  # folders of what was made of the runs


@dataclass
class Synced:
    """What a sync did."""

    taken: list[str] = field(default_factory=list)  # run ids
    kept: list[str] = field(default_factory=list)  # which the other place has as far or further
    damaged: dict[str, str] = field(default_factory=dict)  # by run id: why it was left where it is
    files: list[str] = field(default_factory=list)  # of fits, figures and logs that were taken
    differ: list[str] = field(default_factory=list)  # and that are other ones there, which stay


Show = Callable[[int, int], None]  # how many runs were seen to, of how many


def unshown(done: int, of: int) -> None:
    """Show nothing."""


def upload(folder: Folder, bucket: Bucket, show: Show = unshown) -> Synced:
    """Take a results folder to a bucket. Raises Refusal, at first or with what was done kept."""
    folder.manifest()
    bucket.refuse_unusable([])
    done = Synced()
    with _alone(folder, bucket):
        _take_plan(folder, bucket)
        for run_id in _shown(folder.run_ids(), show):
            if (record := _whole(done, folder, run_id)) is None:
                continue
            mine = _reach(record, folder.checkpoints(run_id))
            found = _found(bucket, run_id)
            if found is not None and _reach(found.state.record, found.checkpoints) >= mine:
                done.kept.append(run_id)
                continue
            with _taking(done, run_id, bucket), bucket.leases.held(run_id) as lease:
                Carrier(bucket.store, lease, run_folder(folder.path, run_id), None).push()
                failpoint("synced-run")
        for name in _beside(folder):
            _upload_file(done, folder, bucket, name)
    return done


def download(bucket: Bucket, folder: Folder, show: Show = unshown) -> Synced:
    """Bring the results at an address to a folder. Raises Refusal as `upload`."""
    bucket.look()
    bucket.manifest()
    done = Synced()
    folder.path.mkdir(parents=True, exist_ok=True)
    with _alone(folder, bucket):
        _take_plan(bucket, folder)
        for run_id in _shown(bucket.run_ids(), show):
            if (record := _whole(done, bucket, run_id)) is None:
                continue
            found = bucket.states.found(run_id)
            assert found is not None
            with suppress(Refusal):  # damaged here: the other takes its place
                here = folder.record(run_id)
                reached = None if here is None else _reach(here, folder.checkpoints(run_id))
                if reached is not None and reached >= _reach(record, found.checkpoints):
                    done.kept.append(run_id)
                    continue
            with _taking(done, run_id, folder):
                _put_in_place(bucket, found, folder)
        for beside in BESIDE:
            for each in bucket.store.list(beside):
                _download_file(done, bucket, folder, each.key)
    return done


def _shown(run_ids: Sequence[str], show: Show) -> Iterator[str]:
    """The runs, each shown when it was seen to."""
    for number, run_id in enumerate(run_ids):
        show(number, len(run_ids))
        yield run_id
    show(len(run_ids), len(run_ids))


@contextmanager
def _taking(done: Synced, run_id: str, target: Folder | Bucket) -> Iterator[None]:
    """Note that a run is taken, or why it is left. Raises Refusal where others would be too."""
    try:
        yield
        done.taken.append(run_id)
    except Damaged as error:
        done.damaged[run_id] = str(error)
    except Missing:
        done.damaged[run_id] = f"run {run_id}: it is trained meanwhile. Give the command again."
    except (Owned, Replaced) as error:
        done.damaged[run_id] = (
            f"{target}: run {run_id}: {error}. Stop it, then give the command again."
        )


@contextmanager
def _alone(folder: Folder, bucket: Bucket) -> Iterator[None]:
    """Hold both places. Raises Refusal where somebody trains in one."""
    with ExitStack() as life:
        places: tuple[Results, ...] = (folder, bucket)
        for place in places:
            with place.changing():
                hold = life.enter_context(place.holding())
                if not hold.is_alone():
                    raise Refusal(
                        f"{place} is being trained. Stop that, or wait until it has ended; then "
                        "give the command again."
                    )
        bucket.look()
        yield


def _take_plan(source: Folder | Bucket, target: Folder | Bucket) -> None:
    """Take the study and its plan along, unless the other place has more. Raises Refusal."""
    wanted, present = source.manifest(), _manifest(target)
    if present is not None:
        _refuse_other_tokens(source, wanted, target, present)
    if present is not None and present.extends(wanted):
        return
    if present is not None and not wanted.extends(present):
        raise Refusal(
            f"{target} is planned for study {present.study_sha256[:12]}, and {source} for study "
            f"{wanted.study_sha256[:12]}: each has runs that the other leaves out. Give another "
            "place, or `scaling run` a study with the runs of both. Nothing was changed."
        )
    files = {name: source.read(name) for name in STUDY}
    with target.changing():
        for name, data in files.items():
            if data is None:
                raise Refusal(
                    f"{source}: {name} is missing. Give `scaling run` of its study once, with "
                    "--results, which writes it."
                )
            target.write(name, data)


def _refuse_other_tokens(
    source: Folder | Bucket, wanted: Manifest, target: Folder | Bucket, present: Manifest
) -> None:
    """Raise Refusal where a corpus of one name has other tokens at each place."""
    for name, digest in wanted.corpora.items():
        other = present.corpora.get(name, digest)
        if other != digest:
            raise Refusal(
                f"{target}: its runs read corpus {name} with tokens of digest {other[:12]}, and "
                f"those in {source} with {digest[:12]}, as another version of `tokenizers` makes "
                "them. Give another place. Nothing was changed."
            )


def _manifest(place: Folder | Bucket) -> Manifest | None:
    try:
        return place.manifest()
    except Refusal as error:
        if "holds no plan" in str(error):
            return None
        raise


def _whole(done: Synced, source: Folder | Bucket, run_id: str) -> RunRecord | None:
    """The record of a run; null, and noted, if it or its tables are not as they were written."""
    try:
        record = source.record(run_id)
    except Refusal as error:
        done.damaged[run_id] = str(error)
        return None
    if record is not None and (wrong := source.damage(record)):
        done.damaged[run_id] = "; ".join(wrong.values())
        return None
    return record


def _found(bucket: Bucket, run_id: str) -> Found | None:
    with suppress(Refusal):  # damaged: the other takes its place
        return bucket.states.found(run_id)
    return None


def _reach(record: RunRecord, checkpoints: set[int]) -> tuple[int, bool, bool]:
    """How far a run came: what is further is never replaced by what is less."""
    return max(checkpoints, default=0), record.status == "completed", record.ended


def _put_in_place(bucket: Bucket, found: Found, folder: Folder) -> None:
    """Bring a run to a folder: all of it aside first, then rows, checkpoints and the record."""
    run = run_folder(folder.path, found.run_id)
    aside = run.with_name(f".{run.name}.{uuid4().hex}")
    try:
        for path in found.state.files:
            try:
                fetch(bucket.store, found, path, aside)
            except Damaged as error:
                raise Damaged(
                    f"{error}. Delete {bucket}/{found.key(path)}, give `scaling run` of its study "
                    "there with --retry failed, which makes it again, and then this command again."
                ) from error
        run.mkdir(parents=True, exist_ok=True)
        with claimed(run) as claim:
            shutil.rmtree(run / "steps", ignore_errors=True)
            for path in sorted(files_in(aside), key=_last_the_checkpoints):
                (run / path).parent.mkdir(parents=True, exist_ok=True)
                (aside / path).replace(run / path)
            failpoint("synced-files")
            remove_attempts(run, claim.generation - 1)  # which came less far
            replace_record(run, claim, found.state.record)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _last_the_checkpoints(path: str) -> tuple[bool, bool, str]:
    """Rows first; of a checkpoint the list of its files last, without which it counts nothing."""
    return path.startswith("checkpoints/"), path.endswith("/checksums.json"), path


def _beside(folder: Folder) -> list[str]:
    files = [file for name in BESIDE for file in (folder.path / name).rglob("*")]
    return [
        file.relative_to(folder.path).as_posix()
        for file in sorted(files)
        if file.is_file() and not file.is_symlink() and not file.name.startswith(".")
    ]


def _upload_file(done: Synced, folder: Folder, bucket: Bucket, name: str) -> None:
    file = folder.path / name
    if (there := bucket.read(name)) is not None:
        if there != file.read_bytes():
            done.differ.append(name)
        return
    bucket.store.upload(file, name)
    done.files.append(name)


def _download_file(done: Synced, bucket: Bucket, folder: Folder, name: str) -> None:
    if ".." in Path(name).parts:  # no file of ours
        return
    file = folder.path / name
    if file.exists():
        if bucket.read(name) not in (None, file.read_bytes()):
            done.differ.append(name)
        return
    with suppress(Missing):  # deleted meanwhile
        bucket.store.download(name, file)
        done.files.append(name)
