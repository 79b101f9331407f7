"""What a plan refuses before and after it reads its text, and what it says of the rest."""

from __future__ import annotations

import json
import re
import threading
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.identifiability import typical
from analysis.laws.catalogue import law
from experiments.cli import progress
from experiments.cli.join.identifiability import MAX_CONDITION, few_trunks
from experiments.cli.join.plan import Planned, plan_file, plan_study
from experiments.cli.join.warnings import design_warnings, too_large
from experiments.cli.render.plan import Shown, plan_text
from scaling.data import tokenizer
from scaling.data.corpus import load
from scaling.data.progress import Step
from scaling.launch import slots
from scaling.launch.slots import Host
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.study import Study, parse_study
from scaling.tasks.jsonl import read_items

COPY = {"task": "copy", "length": 26}
ADDITION = {"task": "addition", "digits": 1}


@pytest.fixture
def planned(tmp_path: Path, cache: Path) -> Callable[..., Planned]:
    """The plan of a small study with these tasks."""
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"the union of {number} peoples " * (20 + number))

    def make(tasks: dict[str, Any], **data: Any) -> Planned:
        raw: dict[str, Any] = {
            "name": "tiny",
            "model": {"head_dim": 8, "aspect_ratio": 16},
            "data": {
                **{"source": str(tmp_path / "*.txt"), "sequence_length": 16},
                **{"holdout_fraction": 0.2, "allow_repeats": True, **data},
            },
            "training": {
                **{"schedule": "cosine", "batch_sequences": 4, "learning_rate": 0.01},
                **{"warmup_tokens": 128, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
                **{"clip_norm": 1.0, "round_to_steps": 4},
            },
            "grid": {"kind": "product", "params": [3400], "tokens": [1024]},
            "evaluation": {"tokens": 400, "every_tokens": 1024},
            "tasks": {"fraction": 0.5, "items": 8, **tasks},
        }
        return plan_study(parse_study(raw, "tiny.toml"))

    return make


STUDY = """
name = "mine"
law = "chinchilla"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = "{source}"
tokenizer = "bpe:270"
sequence_length = 16
holdout_fraction = 0.2
allow_repeats = true
[training]
schedule = "cosine"
batch_sequences = 4
learning_rate = 0.01
warmup_tokens = 128
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4
[grid]
{grid}
[evaluation]
tokens = 400
every_tokens = 1024
"""
PRODUCT = """kind = "product"
params = ["3.4k", "13k", "52k"]
tokens = [1024, 4096, 16384]"""
ISOFLOP = """kind = "isoflop"
budgets = [1e10]
flop_count = "6nd"
params = ["3.4k", "6.9k", "13k"]"""
LADDER = """kind = "ladder"
params = ["3.4k", "13k", "52k"]
tokens_per_param = [2]"""


@pytest.fixture
def mine(tmp_path: Path, cache: Path) -> Callable[..., Study]:
    """A study of a text of its own, tokenised by a BPE that is not trained yet."""
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"the union of {number} peoples " * (20 + number))

    def make(grid: str = PRODUCT, **replaced: str) -> Study:
        text = STUDY.replace("{source}", str(tmp_path / "*.txt")).replace("{grid}", grid)
        for name, value in replaced.items():
            text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        return parse_study(tomllib.loads(text), "mine.toml")

    return make


def test_what_needs_no_text_is_refused_together_before_any_is_read(
    mine: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "train_bpe", lambda *_: pytest.fail("a BPE was trained"))
    with pytest.raises(Refusal) as caught:
        grid = PRODUCT.replace("4096, 16384", "8192").replace('"3.4k"', "5")
        plan_study(mine(grid, warmup_tokens='"1k"'))
    lines = str(caught.value).splitlines()
    for words in ("params = 5 is less", "warmup_tokens", "tokens has 2 distinct values"):
        assert sum(words in line for line in lines) == 1, words
    with pytest.raises(Refusal, match="names no file") as caught:
        plan_study(mine(source='"away.txt"', warmup_tokens='"1k"'))
    assert "warmup_tokens" in str(caught.value)


def test_misspelt_words_and_what_else_is_wrong_are_said_together(
    mine: Callable[..., Study], tmp_path: Path
) -> None:
    grid = PRODUCT.replace(", 16384", "")
    with pytest.raises(Refusal, match=r"no law 'chinchila'.*(?s:.)*tokens has 2 distinct values"):
        plan_study(mine(grid, law='"chinchila"'))
    text = STUDY.replace("{source}", str(tmp_path / "*.txt")).replace("{grid}", grid)
    (tmp_path / "s.toml").write_text(text.replace('"cosine"', '"cosin"'))
    with pytest.raises(Refusal, match=r"Did you mean cosine\?\n.*tokens has 2 distinct values"):
        plan_file(tmp_path / "s.toml")


def test_more_tokens_than_the_text_has_bytes_are_refused_before_a_bpe_is_trained(
    mine: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "train_bpe", lambda *_: pytest.fail("a BPE was trained"))
    size = sum(len(each.read_bytes()) + 1 for each in tmp_path.glob("*.txt"))
    most = (size + 16 * 5) // 16 * 16  # whole sequences, with the ends of pieces
    said = rf"tokens = 20,480; 40,960 are more than the {most:,} tokens .* can have, one a byte"
    grid = PRODUCT.replace("16384", "20480, 40960")
    with pytest.raises(Refusal, match=rf"{said}\. Give fewer tokens, more text, or set") as caught:
        plan_study(mine(grid, allow_repeats="false"))
    assert "\n" not in str(caught.value)
    with pytest.raises(Refusal, match=r"unique_tokens = 40,000 is more than the .* one a byte"):
        plan_study(mine(allow_repeats="true\nunique_tokens = 40000"))


@pytest.mark.parametrize(
    "grid, words",
    [
        (PRODUCT.replace(", 16384", ""), "a third number of tokens"),
        (PRODUCT.replace(', "52k"', ""), "a third size"),
        (PRODUCT.replace("1024, 4096, ", ""), "2 more of tokens"),
        (LADDER, r"tokens_per_param = \[2\] puts every run on one ray .* a second multiple"),
        (ISOFLOP, "a second budget"),
        (
            PRODUCT.replace(', "52k"', "").replace(", 16384", ""),
            "a third size.* and a third number",
        ),
        (PRODUCT.replace('"13k", "52k"', '"3.45k"').replace(", 16384", ""), "round to the same"),
        (PRODUCT.replace('"13k", "52k"', '"3.45k"'), "params has 1 distinct value"),
        (PRODUCT.replace('"3.4k"', '"5"').replace(", 16384", ""), "params = 5 is less"),
    ],
)
def test_a_design_is_refused_with_an_addition_that_identifies_the_law(
    mine: Callable[..., Study], grid: str, words: str
) -> None:
    with pytest.raises(Refusal, match=f"(?s){words}") as caught:
        plan_study(mine(grid))
    assert plan_study(mine(advised(grid, caught.value))).condition_number < MAX_CONDITION  # type: ignore[operator]


def advised(grid: str, refusal: Refusal) -> str:
    """The grid with what a refusal advises for its law."""
    fields = re.findall(r"(\w+) = (\[[^]]*\])(?= \(| and)", str(refusal))
    assert fields and "number inf), or" not in str(refusal)
    for name, values in fields:
        grid = re.sub(rf"(?m)^{name} = .*$", f"{name} = {values}", grid)
    return grid


def test_the_tokens_that_are_advised_are_rounded_to_themselves(mine: Callable[..., Study]) -> None:
    coarse = {"batch_sequences": "64", "warmup_tokens": "512"}  # calls of 4,096 tokens
    grid = PRODUCT.replace("1024, 4096, 16384", '"6.2k", "50k"')
    with pytest.raises(Refusal, match="would be rounded by more") as caught:
        plan_study(mine(grid, **coarse))
    assert plan_study(mine(advised(grid, caught.value), **coarse)).plan.runs


def test_a_plan_says_on_what_its_runs_are_judged(mine: Callable[..., Study]) -> None:
    planned = plan_study(mine())
    (judged,) = planned.judged
    info = planned.plan.corpus
    assert (judged.held_out, judged.held_out_tokens) == (
        info.holdout_documents,
        info.holdout_tokens,
    )
    text = plan_text(Shown(planned))
    assert f"in all {judged.documents} held-out documents, windows of 16" in text
    assert f"the held-out loss is over {judged.documents} of 8 documents" in " ".join(text.split())


def test_a_plan_names_the_sets_that_its_runs_are_judged_on(
    mine: Callable[..., Study], tmp_path: Path
) -> None:
    texts = [f"a people of the union {number} " * 20 for number in range(6)]
    (tmp_path / "web.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    plain, named = mine(), {"web": str(tmp_path / "web.jsonl")}
    study = replace(plain, evaluation=replace(plain.evaluation, sets=named))
    planned = plan_study(study)
    _, web = planned.judged
    assert (web.set, web.held_out) == ("web", 6)
    ((name, text_of),) = planned.plan.runs[0].sets
    assert load(text_of, cache_folder() / "corpora").info.source == named[name]
    ids = [run.run_id for run in plan_study(plain).plan.runs]
    assert [run.run_id for run in planned.plan.runs] == ids
    text = " ".join(plan_text(Shown(planned)).split())
    assert "Validation set web: 400 of" in text and "of 6 documents, at the end of each run" in text


def test_a_set_of_the_text_that_is_trained_on_is_refused_with_what_else_is_wrong(
    mine: Callable[..., Study], tmp_path: Path
) -> None:
    plain = mine()
    sets = {"own": str(tmp_path / "*.txt"), "away": str(tmp_path / "away.txt")}
    study = replace(plain, evaluation=replace(plain.evaluation, sets=sets))
    with pytest.raises(Refusal) as caught:
        plan_study(study)
    first, second = caught.value.lines
    assert first.startswith(f"[evaluation] sets: away = '{tmp_path}/away.txt' names no file.")
    assert re.search(r"sets: own = .* shares \d of its 8 documents with the text", second)


def test_a_size_that_is_mostly_embedding_is_said(mine: Callable[..., Study]) -> None:
    elsewhere = '"away.txt"\ntrain_tokens = "1B"'
    grid = PRODUCT.replace('"3.4k"', '"850", "3.4k"')
    declared = mine(grid, source=elsewhere, tokenizer='"bpe:8k"')
    said = " ".join(design_warnings(plan_study(declared)))
    assert re.search(r"N total, .* varies only by a factor .* embedding and head are", said)
    bytes_only = mine(tokenizer='"bytes"', head_dim="32", params='["25k", "443k", "1M"]')
    assert not any("N total" in each for each in design_warnings(plan_study(bytes_only)))


def test_a_log_has_a_line_now_and_then_while_a_corpus_is_prepared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    told = threading.Event()
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.001)
    monkeypatch.setattr(progress, "say", lambda text, _: (lines.append(text), told.set()))
    with progress.Preparation() as watch:
        watch(Step("learning the 8,000 tokens of bpe:8k", 3_000_000, 12_000_000))
        assert told.wait(60)
    assert lines[0].startswith("learning the 8,000 tokens of bpe:8k: 3M (25%), ")
    assert capsys.readouterr() == ("", "")


def test_tasks_that_fit_are_planned(planned: Callable[..., Planned]) -> None:
    assert planned({"list": [ADDITION], "shots": [0, 1]}).plan.runs


def test_questions_that_fit_no_sequence_are_refused(planned: Callable[..., Planned]) -> None:
    with pytest.raises(Refusal, match=r"shots = 9: 'addition digits=1' with its examples"):
        planned({"list": [ADDITION], "shots": [0, 9]})


def test_items_that_fit_no_window_are_refused(planned: Callable[..., Planned]) -> None:
    said = r"copy length=26: an item takes 5\d of sequence_length = 16 tokens, and windows cut it"
    with pytest.raises(Refusal, match=said):
        planned({"list": [COPY]})


def test_tasks_on_tokens_without_texts_are_refused(
    planned: Callable[..., Planned], tmp_path: Path
) -> None:
    tokens = np.random.default_rng(0).integers(1, 300, 5000).astype(np.uint16)
    tokens[::50] = 0
    tokens.tofile(tmp_path / "tokens.bin")
    given = {"token_dtype": "uint16", "vocab_size": 300, "end_token": 0}
    with pytest.raises(Refusal, match=r"\[tasks\] the corpus .* is tokens without a tokenizer"):
        planned({"list": [ADDITION]}, source=str(tmp_path / "tokens.bin"), **given)


def test_a_file_of_which_nothing_may_be_trained_on_is_refused(
    planned: Callable[..., Planned], tmp_path: Path
) -> None:
    every, file = tmp_path / "every.jsonl", tmp_path / "held_out.jsonl"
    lines = [json.dumps({"prompt": f"{n}?", "answer": "1"}) for n in range(40)]
    every.write_text("\n".join(lines))
    held_out = [item.held_out for item in read_items(every)[0]]
    file.write_text("\n".join(line for line, out in zip(lines, held_out, strict=True) if out))
    with pytest.raises(Refusal, match=r"jsonl held_out-.*: every item is for evaluation"):
        planned({"list": [{"task": "jsonl", "file": str(file)}]})
    asked_only = {"list": [ADDITION, {"task": "jsonl", "file": str(file), "weight": 0}]}
    assert planned(asked_only).plan.runs


@pytest.mark.parametrize(("platform", "warns"), [("cpu", True), ("gpu", False)])
def test_memory_that_a_machine_lacks_is_said_where_jax_finds_no_accelerator(
    mine: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, platform: Any, warns: bool
) -> None:
    # A plugin may be installed where there is no device.
    monkeypatch.setattr("models.devices.expected_platform", lambda: "gpu")
    monkeypatch.setattr(slots, "this_host", lambda: Host(platform, platform, ("0",)))
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    said = list(too_large(plan_study(mine()).plan))
    assert [each.startswith("a worker needs") for each in said] == [True] * warns


def test_a_plan_names_the_coefficients_that_few_trunks_would_carry() -> None:
    quickstart = plan_file(Path("experiments/quickstart.toml"))
    assert not any("would rest on" in each for each in design_warnings(quickstart))
    runs = pd.read_csv("tests/analysis/two_long_trunks.csv")
    runs = runs.assign(params=runs["params_total"].astype(float))
    n, d = (runs[name].to_numpy(float) for name in ("params", "tokens"))
    [said] = few_trunks(law("chinchilla"), typical(n, d), runs)
    # Two of its twelve trunks reach more than one number of tokens.
    assert "alpha, B and beta would rest on 2, 5.5, 5.6, 1.9 and 1.8 of 12 trunks in effect" in said
    assert "E, B and beta would have no interval (fewer than 3)" in said
