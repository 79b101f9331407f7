"""An address such as s3://bucket/runs, where a command takes one and where it does not."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli import __main__ as cli
from experiments.cli.addresses import addresses_read
from experiments.cli.render.slurm import queue_text
from experiments.cli.sync import _text
from experiments.cli.text import say
from scaling.launch.slurm_queue import InQueue
from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.mirror import study_of
from scaling.store.bucket.sync import Synced
from scaling.store.objects import open_store
from scaling.store.records import Refusal


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["models", "s3://bucket/m.toml"], "argument 's3://bucket/m.toml'"),
        (["run", "s.toml", "--json=gs://bucket/r"], "--json 'gs://bucket/r'"),
        (["fit", "r", "--json", "s3://b/fit.json"], "--json 's3://b/fit.json'"),
        (["eval", "file:///tmp/runs"], "Give the path without file://"),
    ],
)
def test_an_address_is_no_path(words: list[str], named: str) -> None:
    with (
        pytest.raises(Refusal, match="of this machine") as refused,
        addresses_read(words[0], words[1:]),
    ):
        pass
    assert named in str(refused.value)


def test_a_study_is_read_from_an_address(tmp_path: Path, capsys: Any) -> None:
    results = f"file://{tmp_path}/bucket/tiny"
    open_store(results).write("study.toml", b"a study")
    # As `scaling status` says how to go on.
    command = queue_text(Bucket(open_store(results)), InQueue((7,), 0, {}, 0), left=2)
    words = shlex.split(command.partition("scaling run ")[2])
    assert words[0] == f"{results}/study.toml"
    with addresses_read("run", words) as read:
        assert Path(read[0]).read_bytes() == b"a study" and read[1:] == words[1:]
        say(f"cannot read study {read[0]}")
    assert capsys.readouterr().out == f"cannot read study {results}/study.toml\n"


@pytest.mark.parametrize("given", ["tiny", "", ".."])
def test_an_address_that_is_no_study_is_refused(tmp_path: Path, given: str) -> None:
    address = f"file://{tmp_path}/bucket/{given}"
    with (
        pytest.raises(Refusal, match=r"there is no study at file://.* Give the address of its"),
        addresses_read("run", [address]),
    ):
        pass


def test_what_only_looks_like_an_address_is_none() -> None:
    words = ["published:chinchilla-2022", "--where", "a==b", "C:/runs"]
    with addresses_read("recommend", words) as read:
        assert read == words


def test_an_address_of_no_known_kind_is_refused_and_makes_no_folder(tmp_path: Path) -> None:
    study = Path(__file__).parents[3] / "experiments/smoke.toml"
    command = [sys.executable, "-m", "experiments.cli", "run", str(study), "--results", "s4://b/r"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "'s4://b/r/smoke' is no address that can be" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_study_of_an_address_is_what_its_folders_are_in() -> None:
    study = "s3://b/runs/tiny"
    assert study_of(study + "/") == (study, "")
    assert study_of(f"{study}/fits/chinchilla.json") == (study, "fits/chinchilla.json")
    assert study_of(f"{study}/runs.parquet") == (study, "runs.parquet")


def run(capsys: Any, monkeypatch: Any, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["scaling", *words])
    code = cli.main()
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_study_in_a_bucket_is_fitted_and_drawn_in_place(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    address = f"file://{tmp_path}/bucket/made"
    rows = [
        {"n_params": n, "tokens": d, "loss": 1.8 + 500 / n**0.35 + 400 / d**0.3}
        for n in (1e6, 4e6, 2e7, 9e7)
        for d in (1e8, 5e8, 3e9)
    ]
    store = open_store(address)
    store.write("runs.parquet", pd.DataFrame(rows).to_parquet(index=False))
    code, said = run(capsys, monkeypatch, "fit", address, "--bootstrap", "0")
    assert code == 0, said
    fit = f"{address}/fits/chinchilla.json"
    assert fit in said, "the address is printed, not the mirror"
    assert "made: params is read from n_params" in said
    assert "fits/chinchilla.json" in [each.key for each in store.list("fits")]
    code, said = run(capsys, monkeypatch, "show", fit)
    assert code == 0, said
    code, said = run(capsys, monkeypatch, "recommend", fit, "--flops", "1e19")
    assert code == 0, said
    code, said = run(capsys, monkeypatch, "plot", address)
    assert code == 0, said
    assert any(each.key.endswith(".png") for each in store.list("figures"))


def test_an_address_without_a_study_is_refused(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    for command in ("status", "worker", "fit"):
        code, said = run(capsys, monkeypatch, command, f"file://{tmp_path}/bucket/none")
        assert code == 2 and "holds no" in said and len(said.strip().splitlines()) == 1, said


def test_what_is_read_at_an_address_makes_no_folder(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    there = f"file://{tmp_path}/new/made"
    (tmp_path / "d.toml").write_text(
        f'[data]\nsource = "{there}"\nsequence_length = 32\nholdout_fraction = 0.05\n'
    )
    code, said = run(capsys, monkeypatch, "prepare", str(tmp_path / "d.toml"))
    assert code == 2 and f"{there}' names no object" in said, said
    for command in ("fit", "status"):
        assert run(capsys, monkeypatch, command, there)[0] == 2
    assert not (tmp_path / "new").exists()
    with pytest.raises(Refusal, match=r"is no folder: .*d\.toml is a file"):
        open_store(f"file://{tmp_path}/d.toml/runs")
    store = open_store(there)
    store.write("a/b.txt", b"kept")
    assert [each.key for each in store.list("")] == ["a/b.txt"]
    assert [each.key for each in open_store(there).list("")] == ["a/b.txt"]


def test_a_folder_whose_name_begins_with_a_dot_keeps_it(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/.kept/tiny").write("a.txt", b"kept")
    assert (tmp_path / ".kept/tiny/a.txt").read_bytes() == b"kept"


def test_each_run_that_is_not_taken_is_said_and_the_others_are_counted() -> None:
    done = Synced(taken=["a", "b"], damaged={"c": "run c: cut", "d": "run d: gone"})
    said = _text(done, "s3://bucket/runs/grid").splitlines()
    assert said == [
        "2 runs → s3://bucket/runs/grid",
        "not taken: run c: cut",
        "not taken: run d: gone",
    ]


@pytest.mark.slow
def test_a_study_is_trained_at_an_address_and_brought_here(
    write_study: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    study, there = str(write_study("[1536, 3072]")), f"file://{tmp_path}/bucket"
    code, said = run(capsys, monkeypatch, "run", study, "--results", there, "--workers", "1")
    assert code == 0 and f"Run table → {there}/grid/runs.parquet" in said, said
    code, said = run(capsys, monkeypatch, "status", f"{there}/grid")
    assert code == 0 and "2 completed" in said, said
    code, said = run(capsys, monkeypatch, "sync", f"{there}/grid", str(tmp_path / "here/grid"))
    assert code == 0 and "2 runs → " in said, said
    code, said = run(capsys, monkeypatch, "run", study, "--results", str(tmp_path / "here"))
    assert code == 0 and "0 to do" in said, said
