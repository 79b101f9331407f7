"""A fit is read as one whole, as it was written, or not at all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, Status, fit
from analysis.fitting.json import to_json
from analysis.laws.catalogue import law
from analysis.laws.published import published
from scaling.store.records import Refusal, sealed, write_json

ROOT = Path(__file__).resolve().parents[3]


def fitted(rows: int) -> Fit:
    params, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4))
    )
    loss = published("besiroglu-2024").predict({"params": params, "tokens": tokens})
    loss *= np.exp(np.random.default_rng(rows).normal(0, 0.01, len(loss)))
    runs = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    return fit(law("chinchilla"), runs.head(rows), bootstrap=30, checks=False)


@pytest.fixture(scope="module")
def two() -> list[Fit]:
    return [fitted(16), fitted(20)]


@pytest.fixture
def path(two: list[Fit], tmp_path: Path) -> Path:
    save_fit(two[0], tmp_path / "mine.json")
    return tmp_path / "mine.json"


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def same(found: Fit, saved: Fit) -> bool:
    return to_json(found) == to_json(saved) and found.draws.equals(saved.draws)


def test_a_fit_is_three_files_of_which_one_names_the_others(path: Path, two: list[Fit]) -> None:
    value = json.loads(path.read_text())
    assert names(path.parent) == sorted([value["draws"], "mine.json", value["rows"]])
    assert value["draws"] == f"mine.draws-{value['digests']['draws'][:12]}.parquet"
    assert same(load_fit(str(path)), two[0])
    text = path.read_bytes()
    path.write_bytes(text.replace(b"\n", b"\r\n"))  # as git may check it out
    assert same(load_fit(path), two[0])


@pytest.mark.parametrize("part", ["json", "draws", "rows"])
def test_no_bit_can_change_unseen(part: str, path: Path) -> None:
    value = json.loads(path.read_text())
    file = path if part == "json" else path.with_name(value[part])
    data, chance = file.read_bytes(), random.Random(0)
    for bit in chance.sample(range(8 * len(data)), 100):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(Refusal):
            load_fit(path)
    # Not even in a letter of a number that means the same, or in digits that no float has.
    if part == "json":
        file.write_bytes(data.replace(b'"n": 16', b'"n":  16'))
        with pytest.raises(Refusal, match="has changed since it was written"):
            load_fit(path)


@pytest.mark.parametrize("alpha", ["-0.3", "0.9", "null", "NaN", "1e999"])
def test_what_is_edited_by_hand_is_refused(alpha: str, path: Path, two: list[Fit]) -> None:
    was = json.dumps(two[0].coefficients["alpha"])
    path.write_text(path.read_text().replace(f'"alpha": {was}', f'"alpha": {alpha}', 1))
    with pytest.raises(Refusal, match=r"mine.json is not as `scaling fit` wrote it.*or fit again"):
        load_fit(path)


def resealed(path: Path, **changes: Any) -> None:
    """As a program would write it that knows of the seal and not of the law."""
    write_json(path, sealed({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("alpha", [-0.3, 30.0, None])
def test_a_coefficient_outside_its_law_is_refused(
    alpha: float | None, path: Path, two: list[Fit]
) -> None:
    resealed(path, coefficients={**two[0].coefficients, "alpha": alpha})
    with pytest.raises(Refusal, match=r"alpha = .* is outside what chinchilla allows"):
        load_fit(path)


def test_a_fit_of_another_version_is_refused_as_such_and_one_that_says_none_is_read(
    path: Path, two: list[Fit]
) -> None:
    value = json.loads(path.read_text())
    resealed(path, format=2)
    with pytest.raises(Refusal, match=r"mine.json is of format 2, .* reads format 1\. Update"):
        load_fit(path)
    del value["format"]
    write_json(path, sealed(value))
    assert same(load_fit(path), two[0])


def test_a_fit_that_failed_is_refused_with_its_reason(path: Path, two: list[Fit]) -> None:
    save_fit(replace(two[0], status=Status.FAILED, reason="no start came to rest"), path)
    with pytest.raises(Refusal, match=r"mine.json is of a fit that failed: no start came to rest"):
        load_fit(path)


def test_a_fit_of_before_is_refused_with_what_to_do(path: Path) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in value.items() if k not in ("digests", "sha256")}))
    with pytest.raises(Refusal, match=r"earlier version.*Fit again: scaling fit RUNS --law chin"):
        load_fit(path)
    resealed(path, digests=value["digests"])
    load_fit(path)
    path.write_text(json.dumps({**value, "sha256": None}))
    with pytest.raises(Refusal, match="it has no sha256"):
        load_fit(path)


def test_parts_go_when_no_file_names_them(path: Path, two: list[Fit]) -> None:
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    save_fit(two[1], path)
    assert len(names(path.parent)) == 6
    assert same(load_fit(copy), two[0]) and same(load_fit(path), two[1])
    copy.unlink()
    save_fit(two[1], path)
    assert len(names(path.parent)) == 3
    write_json(path, {"draws": "mine.draws.parquet", "rows": "mine.rows.parquet"})
    for name in ("mine.draws.parquet", "mine.rows.parquet", "mine.parquet", "other.rows.parquet"):
        path.with_name(name).touch()
    save_fit(two[0], path)
    assert {"mine.parquet", "other.rows.parquet"} < set(names(path.parent))
    assert len(names(path.parent)) == 5


@pytest.mark.parametrize("name", ["läufe", 'q"x', "a\\b", "損失"])
def test_a_fit_of_any_name_keeps_its_parts(name: str, two: list[Fit], tmp_path: Path) -> None:
    path, copy = tmp_path / f"{name}.json", tmp_path / "copy.json"
    save_fit(two[0], path)
    text = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
    copy.write_text(text, encoding="utf-8")  # another program's way to write the name
    for one in two[::-1]:
        save_fit(one, path)
        assert same(load_fit(path), one)
    path.unlink()
    save_fit(two[1], path)
    assert len(names(tmp_path)) == 6


KILLED = """
import json, os, signal, sys
from pathlib import Path
from analysis.fitting.files import load_fit, save_fit
from tests.analysis.fitting.test_files import fitted, names, same

path, two = Path(sys.argv[1]), [fitted(16), fitted(20)]
read, left, killed = [], set(), 0
while True:
    save_fit(two[0], path)
    left.add(len(names(path.parent)))
    killed += 1
    child = os.fork()
    if child == 0:
        seen = 0
        def watch(event, args):
            global seen
            if event in ("open", "os.rename", "os.remove") and str(path.parent) in str(args[0]):
                seen += 1
                if seen == killed:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        save_fit(two[1], path)
        os._exit(0)
    done = os.waitpid(child, 0)[1] == 0
    found = load_fit(path)
    read.append([same(found, each) for each in two].index(True))
    if done:
        break
print(json.dumps([read, sorted(left)]))
"""


def test_a_kill_at_any_place_leaves_the_fit_of_before_or_the_new_one(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "mine.json")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    read, left = json.loads(done.stdout)
    assert read == sorted(read) and read[0] == 0 and read[-1] == 1  # old until the JSON is replaced
    assert len(read) > 10
    assert left == [3]  # what a kill leaves lying goes with the next fit


def test_two_fits_at_once_are_never_mixed(path: Path, two: list[Fit]) -> None:
    stop = threading.Event()

    def again(one: Fit) -> None:
        while not stop.is_set():
            save_fit(one, path)

    writers = [threading.Thread(target=again, args=(each,)) for each in two]
    for each in writers:
        each.start()
    try:
        for _ in range(20):
            found = load_fit(path)
            assert any(same(found, each) for each in two)
    finally:
        stop.set()
        for each in writers:
            each.join()
    assert len(names(path.parent)) == 3


def test_a_fit_is_named_as_json(two: list[Fit], tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"fit.csv is no name for a fit. Give one that ends in .json"):
        save_fit(two[0], tmp_path / "fit.csv")
    assert not list(tmp_path.iterdir())
