"""`scaling fit` says how N* grows by each approach, under each count of parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from experiments.cli.__main__ import main
from experiments.cli.render.fit import next_text

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    """Noise-free isoFLOP runs, N counted in two ways."""
    params, flops = np.meshgrid(np.geomspace(3e7, 1e10, 15), np.geomspace(3e18, 1e20, 4))
    table = pd.DataFrame({"params_total": params.ravel(), "budget_flops": flops.ravel()})
    table["params_non_embedding"] = table["params_total"] * 0.9
    table["params_matmul"] = table["params_total"] - 1e6 * (table["params_total"] / 1e6) ** 0.75
    table["tokens"] = table["budget_flops"] / (6 * table["params_total"])
    features = {"params": params.ravel(), "tokens": table["tokens"].to_numpy()}
    table["loss"] = published("besiroglu-2024").predict(features)
    table.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


def test_fit_prints_and_keeps_the_exponent_by_every_approach(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 200) == 0
    printed = capsys.readouterr().out
    assert "approach    N* ∝ C^" in printed
    kept = json.loads((runs_csv.parent / "mine.chinchilla.json").read_text())["approaches"]
    assert [row["method"][0] for row in kept["rows"]] == ["1", "2", "2", "3"]
    for row in kept["rows"]:
        assert row["exponent"] == pytest.approx(0.5126, abs=0.03)  # off-centre
    assert kept["sentence"] in " ".join(printed.split())


def test_every_count_of_parameters_has_its_row_of_exponents(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", runs_csv, "--params-column", "all", "--bootstrap", 100)
    assert scaling(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    block = printed[printed.index("N* ∝ C^ by approach") :].splitlines()
    rows = [line.split() for line in block[1:3]]
    assert [row[0] for row in rows] == ["params_total", "params_non_embedding"]
    # A count whose 6ND differs within a budget has no isoFLOP minima to compare.
    assert block[3].split()[2:4] == ["refused", "refused"]
    assert "params_matmul: 2 parabola, 2 Akima refused, budgets were cut at another" in printed
    # A constant factor in N leaves the exponents alone.
    assert [float(a) for a in rows[0][1:]] == pytest.approx(
        [float(a) for a in rows[1][1:]], abs=0.002
    )


def test_every_count_of_parameters_is_read_in_the_unit_of_the_table(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(runs_csv)
    counts = [name for name in table if name.startswith("params")]
    table[counts] /= 1e6
    table.assign(C=6 * table["params_total"] * 1e6 * table["tokens"]).drop(columns="tokens").to_csv(
        runs_csv.with_name("millions.csv"), index=False
    )
    words = ("--params-column", "all", "--bootstrap", 0)
    assert scaling(monkeypatch, "fit", runs_csv, *words) == 0
    words = (*words, "--unit", "params=1e6", "--flops-column", "C")
    assert scaling(monkeypatch, "fit", runs_csv.with_name("millions.csv"), *words) == 0
    plain, scaled = (
        json.loads(runs_csv.with_name(f"{name}.chinchilla.json").read_text())["conventions"]
        for name in ("mine", "millions")
    )
    assert scaled[0]["coefficients"] == pytest.approx(plain[0]["coefficients"], rel=1e-4)
    # D of FLOPs is by the N that is counted, here a ninth more, and only B knows of it.
    expected = plain[1]["coefficients"]
    expected["B"] *= 0.9 ** -expected["beta"]
    assert scaled[1]["coefficients"] == pytest.approx(expected, rel=1e-4)


def test_a_swept_table_is_fitted_with_a_warning_and_one_variant_without(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["training.learning_rate_factor=0.5 model.overrides.qk_norm=true", "other=1"]
    table = pd.read_csv(runs_csv)
    swept = pd.concat([table.assign(variant=name) for name in names])
    swept.to_csv(runs_csv, index=False)
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mine.csv has 2 variants" in printed and f"--where 'variant=={names[0]}'" in printed
    assert "Only the law gives an exponent here (approaches 1 and 2: " in printed
    one = ("fit", runs_csv, "--bootstrap", 100, "--where", f"variant=={names[0]}")
    assert scaling(monkeypatch, *one) == 0
    printed = capsys.readouterr().out
    assert "variants" not in printed and "2 parabola  0." in printed


def test_the_estimate_is_told_before_it_is_resampled(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100) == 0
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first.startswith("chinchilla: E 1.817  A 482")
    assert first.endswith("; intervals follow") and "90% interval" in rest
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0) == 0
    assert "follow" not in capsys.readouterr().out


def test_a_fit_goes_where_it_is_told(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = runs_csv.parent / "elsewhere/mine.json"
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100, "--out", out) == 0
    assert f"Fitted chinchilla → {out}\n" in capsys.readouterr().out
    assert json.loads(out.read_text())["law"] == "chinchilla"
    assert not runs_csv.with_suffix(".chinchilla.json").exists()


def test_where_nothing_can_be_written_is_said_before_anything_is_computed(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("analysis.fitting.files.fit_path", lambda *_: Path("/proc/fit.json"))
    assert scaling(monkeypatch, "fit", runs_csv) == 2
    said = capsys.readouterr()
    assert said.out == "" and "cannot write /proc/fit.json: " in said.err
    assert "Give a file elsewhere with --out FILE.json." in said.err
    out = runs_csv.parent / "fit.json"
    assert scaling(monkeypatch, "fit", runs_csv, "--out", out, "--json", "/proc/fit.json") == 2
    assert "elsewhere with --json FILE.json." in capsys.readouterr().err and not out.exists()
    assert scaling(monkeypatch, "fit", runs_csv, "--out", "fit.csv") == 2
    assert "Give one that ends in .json." in capsys.readouterr().err


def test_the_last_lines_say_how_it_ended_what_the_law_is_and_where(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0) == 0
    status, law, where, after = capsys.readouterr().out.splitlines()[-4:]
    assert status.startswith("Status: converged: ")
    assert law.startswith("Law: L = E + A/N^alpha + B/D^beta; E = 1.8, A = 4.8e2")
    assert where.startswith("Fitted chinchilla → ") and after.startswith("Next: scaling recommend")


MILLION = """
import resource
import numpy as np, pandas as pd
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
rng, n = np.random.default_rng(0), 10**6
table = pd.DataFrame({"params": 10 ** rng.uniform(7, 10, n), "tokens": 10 ** rng.uniform(9, 12, n)})
at = {name: table[name].to_numpy() for name in table}
table["loss"] = published("besiroglu-2024").predict(at) * np.exp(rng.normal(0, 0.01, n))
found = fit(law("chinchilla"), table)
print(found.coefficients["alpha"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
def test_a_million_runs_are_fitted_in_bounded_memory() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MILLION],
        check=True, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900,
    )  # fmt: skip
    alpha, gigabytes = map(float, done.stdout.split())
    assert alpha == pytest.approx(0.3478, abs=1e-3)
    assert gigabytes < 1.5


def test_a_missed_largest_run_is_a_warning_of_the_fit_and_of_every_answer(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(runs_csv)
    table["loss"] *= np.exp(0.002 * np.random.default_rng(0).normal(size=len(table)))
    last = (table["params_total"] * table["tokens"]).idxmax()
    table.loc[last, "loss"] *= 0.97  # a finding, not a typing error
    table.to_csv(runs_csv, index=False)
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 200) == 0
    assert "warning: a fit without the largest" in capsys.readouterr().out
    fit = runs_csv.with_suffix(".chinchilla.json")
    for ask in (("predict", "--params", "1e9", "--tokens", "2e10"), ("recommend", "--flops", 1e21)):
        assert scaling(monkeypatch, ask[0], fit, *ask[1:]) == 0
        said = capsys.readouterr().out.split("\n\n")[0]
        assert "Warning: Of the runs: a fit without the largest" in said


def test_a_law_of_rates_ends_with_a_command_that_takes_it(monkeypatch, capsys, tmp_path):
    n, d = (e.ravel() for e in np.meshgrid(np.geomspace(1e8, 3e9, 4), np.geomspace(2e9, 6e10, 4)))
    table = pd.DataFrame({"params": n, "tokens": d, "learning_rate": 1.79 * n**-0.713 * d**0.307})
    table["loss"] = published("besiroglu-2024").predict({"params": n, "tokens": d})
    table.to_csv(tmp_path / "runs.csv", index=False)
    loss, rule = tmp_path / "loss.json", tmp_path / "sl.json"
    few = ("--bootstrap", 20)
    assert scaling(monkeypatch, "fit", tmp_path / "runs.csv", *few, "--out", loss) == 0
    capsys.readouterr()
    ask = ("fit", tmp_path / "runs.csv", "--law", "steplaw_lr", *few, "--out", rule)
    assert scaling(monkeypatch, *ask) == 0
    _, command = capsys.readouterr().out.rstrip().rsplit("Next: scaling ", 1)
    assert command.endswith(f"--rules {rule}")
    run = command.replace("FIT_OF_THE_LOSS.json", str(loss)).split()
    assert scaling(monkeypatch, *run) == 0
    assert "peak rate" in capsys.readouterr().out


def test_what_to_mend_stands_before_the_next_command(runs_csv, tmp_path):
    table = pd.read_csv(runs_csv)[["params_total", "tokens", "loss"]]
    found = fit(law("chinchilla"), table, bootstrap=0)
    doubted = found.doubted(["rows had not decayed: off by more than any interval"])
    first, doubt, following = next_text(doubted, tmp_path / "f.json").splitlines()
    assert first.startswith("Correct first") and "had not decayed" in doubt
    assert following.startswith("Next, once corrected: scaling recommend")
    assert next_text(found, tmp_path / "f.json").startswith("Next: scaling recommend")


@pytest.mark.slow
def test_compare_says_what_to_doubt_before_its_verdict(monkeypatch, capsys, tmp_path):
    n, d = (e.ravel() for e in np.meshgrid(np.geomspace(1e8, 3e9, 5), np.geomspace(2e9, 6e10, 5)))
    loss = published("besiroglu-2024").predict({"params": n, "tokens": d})
    two = [pd.DataFrame({"params": n, "tokens": d, "loss": loss * f, "recipe": r})
           for f, r in ((1, "a"), (1.1, "b"))]  # fmt: skip
    pd.concat(two).to_csv(tmp_path / "runs.csv", index=False)
    ask = ("compare", tmp_path / "runs.csv", "--laws", "chinchilla,kaplan_nd")
    assert scaling(monkeypatch, *ask) == 0
    said = capsys.readouterr().out
    assert said.index("recipe") < said.index("Least error above the cuts")
    assert "Warning" not in said[said.index("Least error above the cuts") :]


def test_no_file_is_overwritten_that_the_command_reads_or_that_is_no_fit(
    runs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    table, other, made = (tmp_path / f"{name}.json" for name in ("runs", "other", "made"))
    pd.read_csv(runs_csv).to_json(table, orient="records")
    other.write_text('{"name": "mine"}')
    made.touch()  # empty, as mktemp makes them
    kept = table.read_bytes()
    for option in (("--out", table), ("--json", table), (f"--out={table}",), ("--json", other)):
        assert scaling(monkeypatch, "fit", table, *option) == 2
        assert "Give a" in capsys.readouterr().err
    assert scaling(monkeypatch, "compare", table, "--laws", "m1,m2", "--json", table) == 2
    assert "--json" in capsys.readouterr().err
    assert (table.read_bytes(), other.read_text()) == (kept, '{"name": "mine"}')
    assert scaling(monkeypatch, "fit", table, "--bootstrap", 0, "--out", made) == 0
    whole = made.read_bytes()
    words = ("recommend", made, "--flops", "1e21", "--json", made)
    assert scaling(monkeypatch, *words) == 2 and made.read_bytes() == whole


def test_a_fit_that_failed_replaces_none(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.fitting import fit as fitting

    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0) == 0
    kept = runs_csv.with_name("mine.chinchilla.json")
    whole, worked = kept.read_bytes(), fitting.fit

    def failing(*given, **how):
        return replace(worked(*given, **how), status=fitting.Status.FAILED, reason="no rest")

    monkeypatch.setattr(fitting, "fit", failing)
    also = runs_csv.with_name("failed.json")
    capsys.readouterr()
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0, "--json", also) == 1
    said = capsys.readouterr()
    assert f"{kept} keeps the earlier fit" in said.out and "the fit failed: no rest" in said.err
    assert kept.read_bytes() == whole and json.loads(also.read_text())["status"] == "failed"


def test_compare_sends_a_law_of_optima_to_the_command_that_finds_them(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(runs_csv)
    pd.concat([table.assign(learning_rate=rate) for rate in (1e-3, 3e-3, 1e-2)]).to_csv(runs_csv)
    assert scaling(monkeypatch, "compare", runs_csv, "--laws", "steplaw_lr") == 2
    assert "scaling fit RUNS --best-of learning_rate" in capsys.readouterr().err


def test_a_saved_fit_is_shown_as_it_was_printed(
    runs_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100) == 0
    printed = capsys.readouterr().out
    fit, also = runs_csv.with_name("mine.chinchilla.json"), runs_csv.with_name("shown.json")
    assert scaling(monkeypatch, "show", fit, "--json", also) == 0
    saved, said = json.loads(fit.read_text()), json.loads(also.read_text())
    del said["written_by"], said["sha256"]  # by which the file of --json is known
    assert {*saved} - {*said} == {"draws", "rows", "digests", "sha256"}
    assert said == {name: saved[name] for name in said} and said["coefficients"]["E"] > 0
    shown = capsys.readouterr().out.splitlines()
    assert "  L = E + A/N^alpha + B/D^beta" in shown and shown[-1].startswith("Next: scaling")
    assert {line for line in shown if line} <= set(printed.splitlines())
    assert scaling(monkeypatch, "show", runs_csv) == 2
