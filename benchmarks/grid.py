"""Do planning, watching and collecting a grid of ten thousand runs take seconds?

    python benchmarks/grid.py [--json FILE]

For grids of about 1,000 and 10,000 runs: `scaling plan`, `scaling status` and the run table of
their results in a folder, and `status`, the table and `status` once more of the same in a bucket.
One run in ten is in training, on other machines. Each that completed has its two tables, which
`status` and the run table read to the last byte in a folder, and in a bucket a checkpoint beside
them, whose files its manifest names.
Each is a process of its own, with the seconds of CPU and the peak memory that the system counts for
it, and the seconds that it took. The bucket is a folder behind the Store of buckets, in which each
request takes 20 ms more, as one to a bucket of the same region does. The first look at it reads
every manifest; whoever comes after the table was made reads what is new since.

The ratios are of seconds of CPU a run at the two sizes: 1 or less where the work grows no faster
than the grid.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from scaling.data.prepare import declared
from scaling.launch.prepare import manifest_of
from scaling.planning.plan import Plan, make_plan
from scaling.store.attempt import attempt_folder
from scaling.store.bucket.leases import Beat, beat_key, claim_key
from scaling.store.bucket.states import Found, State, write_state
from scaling.store.claims import new_claim
from scaling.store.manifest import PLAN, write_manifest
from scaling.store.objects import open_store
from scaling.store.records import json_bytes, write_json
from scaling.store.results import results_at
from scaling.store.run_record import RunRecord
from scaling.study import read_study

LATENCY = 0.02  # seconds of a request, from a machine of the same region
TABLES = {"steps.parquet": bytes(16_000), "evals.parquet": bytes(4_000)}  # of a run of ours
CHECKPOINT_FILES = 20
CLAIM = replace(new_claim(1, step=0), host="another", boot="another")
PROGRESS = {"step": 5, "first_step": 0, "last_step": 10, "tokens_per_s": 1000.0}
SEEDS = (2, 20)  # of 20 sizes on 24 budgets; with their trunks 1,000 and 10,000 runs
STUDY = """
name = "large"
law = "chinchilla"
[model]
head_dim = 64
aspect_ratio = 64
[data]
source = "not-on-this-machine.bin"
token_dtype = "uint16"
vocab_size = 32768
end_token = 0
train_tokens = "10T"
sequence_length = 1024
holdout_fraction = 0.01
[training]
schedule = "wsd"
batch_sequences = 256
learning_rate = 0.003
warmup_tokens = "10M"
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
[grid]
kind = "product"
params = {params}
tokens = {tokens}
seeds = {seeds}
[evaluation]
tokens = "1M"
every_tokens = "1B"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for seeds in SEEDS for row in measure(seeds)]
    ratios = {}
    for what in dict.fromkeys(str(row["what"]) for row in rows):
        small, large = (row for row in rows if row["what"] == what)
        ratios[what] = large["seconds"] / large["runs"] / (small["seconds"] / small["runs"])
        print(f"{what}: {ratios[what]:.2f} times the seconds a run")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1))


def measure(seeds: int) -> list[dict[str, object]]:
    """A row a command, on a grid of so many seeds."""
    with tempfile.TemporaryDirectory() as name:
        study, results = Path(name) / "study.toml", Path(name) / "results"
        study.write_text(
            STUDY.format(
                params=[round(5e6 * 1.3**i) for i in range(20)],
                tokens=[round(1e9 * 1.2**i) for i in range(24)],
                seeds=list(range(seeds)),
            )
        )
        section = read_study(study)
        plan = make_plan(section, declared(section.data))
        write_results(plan, results)
        address = f"file://{Path(name).resolve()}/bucket"
        write_bucket(plan, address)
        status = "from experiments.cli.__main__ import main; main()"
        collect = "import sys; from scaling.store.table import publish_table\n"
        collect += (
            "from scaling.store.results import results_at; publish_table(results_at(sys.argv[1]))"
        )
        commands = {
            "plan": ["-P", "-m", "experiments.cli", "plan", str(study)],
            "status": ["-P", "-m", "experiments.cli", "status", str(results)],
            "collect": ["-c", collect, str(results)],
            "bucket: status": ["-c", DISTANT + status, "status", address],
            "bucket: collect": ["-c", DISTANT + collect, address],
            "bucket: status after that": ["-c", DISTANT + status, "status", address],
        }
        rows = []
        for what, arguments in commands.items():
            began = time.monotonic()
            used = run([sys.executable, *arguments])
            row = {
                "what": what,
                "runs": len(plan.runs),
                "seconds": used.ru_utime + used.ru_stime,
                "elapsed": time.monotonic() - began,
                "peak_mb": used.ru_maxrss / 1024,  # kilobytes on Linux
            }
            print(
                "{what}: {runs:,} runs, {seconds:.2f} s of CPU in {elapsed:.2f} s, "
                "{peak_mb:.0f} MB".format(**row)
            )
            rows.append(row)
        return rows


# Before what a process does: each request of its store takes longer.
DISTANT = f"""
import time
from scaling.store.objects import ObjectStore

def slower(name, requests):
    near = getattr(ObjectStore, name)

    def distant(self, *arguments):
        found = near(self, *arguments)
        found = list(found) if name == "list" else found
        time.sleep({LATENCY} * requests(found))
        return found

    setattr(ObjectStore, name, distant)

for name in ("read", "create", "write"):
    slower(name, lambda found: 1)
slower("list", lambda found: len(found) // 1000 + 1)
"""


def run(command: list[str]) -> resource.struct_rusage:
    """What a process used."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return used


def write_results(plan: Plan, results: Path) -> None:
    """A grid that is being trained, in a folder."""
    os.fsync = lambda file: None  # type: ignore[assignment]  # nothing here need outlive the power
    write_manifest(results, manifest_of(results, plan, b""))
    for record in records(plan, results):
        folder = results / "runs" / record.run_id
        write_json(folder / "run.json", record.plain())
        for name in record.files or {}:
            (folder / name).write_bytes(TABLES[name])
        if record.status == "running":
            write_json(folder / "claims" / "000001.json", asdict(CLAIM))
            (folder / "claims" / "000001.beat").write_bytes(b"1 ")
            write_json(attempt_folder(folder, CLAIM) / "progress.json", PROGRESS)


def write_bucket(plan: Plan, address: str) -> None:
    """A grid that is being trained, at an address: a claim, a beat and a manifest for each run."""
    store = open_store(address)
    store.write(PLAN, manifest_of(results_at(address), plan, b"").as_file())
    for record in records(plan, Path("none")):
        store.write(claim_key(record.run_id, 1), json_bytes(asdict(CLAIM)))
        beat = json_bytes(asdict(Beat(1, progress=PROGRESS)))
        store.write(beat_key(record.run_id, 1), beat if record.status == "running" else b"")
        files = dict(record.plain()["files"] or {})
        for number in range(CHECKPOINT_FILES * (record.files is not None)):
            files[f"checkpoints/{record.steps}/{number}"] = _noted(b"")
        state = State.made(record=record.plain(), files=files)
        write_state(store, Found(record.run_id, CLAIM.name, state))


def records(plan: Plan, results: Path) -> Iterator[RunRecord]:
    """The records of a grid of whose runs one in fifty failed, and one in ten is in training."""
    provenance = {"git": "0" * 40, "python": "3.11", "host": "a", "platform": "cpu"}
    manifest = manifest_of(results, plan, b"")
    for number, run in enumerate(manifest.runs):
        planned = manifest.planned_record(run)
        if number % 10 == 5:
            yield planned.changed(status="running", provenance=[provenance])
        elif number % 50 == 0:
            reason = "its worker died"
            yield planned.changed(status="failed", reason=reason, provenance=[provenance])
        else:
            yield planned.changed(
                status="completed",
                provenance=[provenance],
                result=dict.fromkeys(("loss", "loss_stderr", "bits_per_byte", "train_loss"), 2.5),
                files={name: _noted(data) for name, data in TABLES.items()},
            )


def _noted(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    main()
