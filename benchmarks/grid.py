"""Do planning, watching and collecting a grid of ten thousand runs take seconds?

    python benchmarks/grid.py [--json FILE]

For grids of about 1,000 and 10,000 runs: `scaling plan`, `scaling status` and the run table of
their results, each in a process of its own, with the seconds of CPU and the peak memory that the
system counts for it. The ratios are of seconds a run at the two sizes: 1 or less where the work
grows no faster than the grid.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from scaling.data.prepare import declared
from scaling.launch.prepare import manifest_of
from scaling.planning.plan import Plan, make_plan
from scaling.store.manifest import write_manifest
from scaling.store.records import write_json
from scaling.study import read_study

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
    for what in ("plan", "status", "collect"):
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
        collecting = (
            "import sys; from pathlib import Path\n"
            "from scaling.store.table import publish_table\n"
            "publish_table(Path(sys.argv[1]))"
        )
        commands = {
            "plan": ["-P", "-m", "experiments", "plan", str(study)],
            "status": ["-P", "-m", "experiments", "status", str(results)],
            "collect": ["-c", collecting, str(results)],
        }
        rows = []
        for what, arguments in commands.items():
            used = run([sys.executable, *arguments])
            row = {
                "what": what,
                "runs": len(plan.runs),
                "seconds": used.ru_utime + used.ru_stime,
                "peak_mb": used.ru_maxrss / 1024,  # kilobytes on Linux
            }
            print("{what}: {runs:,} runs, {seconds:.2f} s of CPU, {peak_mb:.0f} MB".format(**row))
            rows.append(row)
        return rows


def run(command: list[str]) -> resource.struct_rusage:
    """What a process used."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return used


def write_results(plan: Plan, results: Path) -> None:
    """The records of a grid that was trained, one in fifty of whose runs failed."""
    os.fsync = lambda file: None  # type: ignore[assignment]  # nothing here need outlive the power
    provenance = {"git": "0" * 40, "python": "3.11", "host": "a", "platform": "cpu"}
    manifest = manifest_of(results, plan, b"")
    write_manifest(results, manifest)
    for number, run in enumerate(manifest.runs):
        done = number % 50 > 0
        result = dict.fromkeys(("loss", "loss_stderr", "bits_per_byte", "train_loss"), 2.5)
        record = manifest.planned_record(run).changed(
            status="completed" if done else "failed",
            reason=None if done else "its worker died",
            provenance=[provenance],
            result=result if done else None,
        )
        write_json(results / "runs" / run.run_id / "run.json", record.plain())


if __name__ == "__main__":
    main()
