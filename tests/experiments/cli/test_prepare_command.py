"""`scaling prepare` makes the corpus that `scaling plan` and `scaling run` find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.cli.__main__ import main
from experiments.cli.join.plan import plan_file
from scaling.data import chunks
from scaling.data import prepare as preparing

ROOT = Path(__file__).parents[3]


@pytest.fixture
def scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command in a folder with shards, and gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))  # remember files however new they are
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(0, 99, 40 + i % 50))) for i in range(300)]
    Path("text").mkdir()
    for number in range(3):
        some = [*texts[100 * number : 100 * (number + 1)], texts[0]]
        lines = [json.dumps({"text": text}) for text in some]
        Path("text", f"{number}.jsonl").write_text("\n".join(lines))

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["scaling", *words])
        code = main()
        return code, "".join(capsys.readouterr())

    return run


CONFIG = """
[data]
source = "text"
sequence_length = 16
holdout_fraction = 0.2
"""


def test_it_says_what_the_corpus_is_and_a_second_time_reads_nothing(
    scaling: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("corpus.toml").write_text(CONFIG)
    code, said = scaling("prepare", "corpus.toml", "--processes", "2", "--json", "made.json")
    assert code == 0
    made = json.loads(Path("made.json").read_text())
    words = " ".join(said.split())
    assert f"Corpus {made['fingerprint']} of text: " in words and " of 303 documents; 256" in words
    assert "3 documents, of" in words
    assert "each lies on the side of the other. drop_duplicates = true leaves them out" in words
    assert "by up to 2 processes" in words and "tokens/s" in words
    assert "Next: scaling plan corpus.toml" in words
    assert made["train_documents"] + made["holdout_documents"] == 303
    assert made["repeated_documents"] == 3 and made["tokens_per_s"] > 0
    size = sum(len(json.loads(line)["text"]) for file in sorted(Path("text").iterdir())
               for line in file.read_text().splitlines())  # fmt: skip
    assert made["train_tokens"] + made["holdout_tokens"] == size + 303
    assert Path(made["folder"], "train.bin").stat().st_size == made["train_tokens"]
    monkeypatch.setattr(preparing, "read_first", None)  # nothing is read again
    code, said = scaling("prepare", "corpus.toml", "--json", "again.json")
    assert code == 0 and "had it already: nothing was read" in " ".join(said.split())
    again = json.loads(Path("again.json").read_text())
    assert (again["seconds"], again["tokens_per_s"]) == (None, None)
    assert again["fingerprint"] == made["fingerprint"]


def test_a_plan_uses_what_was_prepared(
    scaling: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = (ROOT / "experiments/smoke.toml").read_text()
    before, _, after = study.partition("[data]")
    rest = after[after.index("\n[") :]
    Path("study.toml").write_text(before + CONFIG + "allow_repeats = true\n" + rest)
    code, said = scaling("prepare", "study.toml", "--json", "made.json")
    assert code == 0, said
    made = json.loads(Path("made.json").read_text())
    monkeypatch.setattr(preparing, "read_first", None)
    assert plan_file(Path("study.toml")).plan.corpus.fingerprint == made["fingerprint"]


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        (CONFIG, ["--processes", "0"], "--processes 0: at least one"),
        (CONFIG.replace('"text"', '"nowhere"'), [], "source = 'nowhere' names no file"),
        (CONFIG.replace("source", "sources"), [], "corpus.toml: [data] sources"),
        (CONFIG + "drop_duplicate = true\n", [], "drop_duplicates"),
        (CONFIG + "[training]\n", [], "corpus.toml"),
        ("[data", [], "corpus.toml is not valid TOML"),
        (CONFIG + 'text_field = "body"\n', [], "text_field = 'body': text/0.jsonl, line 1 has"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    scaling: Callable[..., tuple[int, str]], config: str, words: list[str], said: str
) -> None:
    Path("corpus.toml").write_text(config)
    code, printed = scaling("prepare", "corpus.toml", *words)
    assert code == 2 and said in printed, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_says_so_and_leaves_no_process(tmp_path: Path, by: int) -> None:
    (tmp_path / "corpus.toml").write_text(CONFIG)
    (tmp_path / "text").mkdir()
    for number in range(8):
        (tmp_path / "text" / f"{number}.jsonl").write_text('{"text": "we the people"}\n' * 100_000)
    code = (
        "import sys; from scaling.data import reading, shards\n"
        "shards.PART = reading.WHOLE = 1 << 20\n"
        "from experiments.cli.__main__ import main\n"
        "sys.argv = ['scaling', 'prepare', 'corpus.toml', '--processes', '2']; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "SCALING_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and len(children(process.pid)) < 2:
        time.sleep(0.02)
    workers = children(process.pid)
    os.killpg(process.pid, by)  # as a terminal or a job's end does
    _, said = process.communicate()
    assert process.returncode == 75, said
    last = said.splitlines()[-1]
    assert last == "scaling prepare: interrupted; the same command continues from here"
    assert "Traceback" not in said
    assert len(workers) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def children(pid: int) -> list[int]:
    """The processes that the threads of a process started."""
    lists = Path("/proc").glob(f"{pid}/task/*/children")
    return [int(word) for each in lists for word in each.read_text().split()]
