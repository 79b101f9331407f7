"""Through how many files a number passes from the study's text to the run table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Plans and collects one tiny run in a process of its own, and prints the modules that make, hold or
# hand on D (as text, tokens or steps) and N (as text, asked for, or counted). A module does where a
# function of it returns the number, a mapping with it, or an object that has it as a field; one
# that only looks at it, as checks do, hands nothing on. Training, which counts for itself what it
# has done, is left out.
TRACE = """
import json, sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from scaling.data.prepare import declared
from scaling.launch.prepare import prepare
from scaling.planning.plan import make_plan
from scaling.store.ready import run_folder
from scaling.store.records import write_json
from scaling.store.run_record import read_run
from scaling.store.table import publish_table
from scaling.study import parse_study

STUDY, FOLDER = json.loads(sys.argv[1]), Path(sys.argv[2])
FORMS = {"tokens": {"14848", 14848, 232}, "params": {"3401", 3401, 3376, 8128, 12976}}
OURS = ("scaling.", "models.")
seen = {name: set() for name in FORMS}


def is_one(value, forms):
    return type(value) in (int, float, str) and value in forms


def hands_on(value, forms):
    if isinstance(value, dict):
        return any(is_one(each, forms) for each in value.values())
    if is_dataclass(value) and type(value).__module__.startswith(OURS):
        return any(is_one(getattr(value, f.name, None), forms) for f in fields(value))
    return is_one(value, forms)


def look(frame, event, returned):
    module = frame.f_globals.get("__name__", "")
    # A comprehension hands on to the function that it is in.
    if event == "return" and module.startswith(OURS) and frame.f_code.co_name[0] != "<":
        for name, forms in FORMS.items():
            if frame.f_code.co_name == "__init__":  # what an object of ours is made with
                returned = frame.f_locals.get("self")
            if hands_on(returned, forms):
                seen[name].add(module)


sys.setprofile(look)
study = parse_study(STUDY, "study")
plan = make_plan(study, declared(study.data))
for run in prepare(FOLDER, plan, b""):
    folder = run_folder(FOLDER, run.run_id)
    done = read_run(folder).changed(status="completed", result={"loss": 2.5})
    write_json(folder / "run.json", done.plain())
table = publish_table(FOLDER).table
sys.setprofile(None)
assert {14848} <= set(table["tokens"]) and set(table["params_total"]) == {12976}, table
print(json.dumps({name: sorted(modules) for name, modules in seen.items()}))
"""

# Of what pydantic makes, in compiled code, nothing is traced; and of the table, only its writing.
UNTRACED = {"scaling.study", "scaling.store.manifest", "scaling.store.table"}
# They know no number by name: one writes JSON, the other compares the steps done with the planned.
BESIDE = {"scaling.store.records", "scaling.store.run_record"}


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that each number passes through."""
    study = {
        "name": "tiny",
        "model": {"head_dim": 8, "aspect_ratio": 16},
        "data": {
            **{"source": "/nowhere.bin", "token_dtype": "uint16", "vocab_size": 300},
            **{"end_token": 0, "train_tokens": 5000, "allow_repeats": True},
            **{"sequence_length": 16, "holdout_fraction": 0.2},
        },
        "training": {
            **{"schedule": "wsd", "batch_sequences": 4, "learning_rate": 0.02},
            **{"warmup_tokens": 256, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
            "clip_norm": 1.0,
        },
        "grid": {"kind": "product", "params": ["3401"], "tokens": ["14848"]},
        "evaluation": {"tokens": 400, "every_tokens": 7000},
    }
    done = subprocess.run(
        [sys.executable, "-c", TRACE, json.dumps(study), str(tmp_path_factory.mktemp("way"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: ({*found} | UNTRACED) - BESIDE for name, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", ["tokens", "params"])
def test_a_number_passes_through_at_most_eight_files(
    name: str, passed: dict[str, set[str]]
) -> None:
    assert len(passed[name]) <= 8, ", ".join(sorted(passed[name]))
