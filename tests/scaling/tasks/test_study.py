"""The [tasks] of a study: what is refused, what it makes of a plan, and tasks from files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data.corpus import Corpus
from scaling.data.prepare import prepare
from scaling.planning.plan import Plan, plan_table
from scaling.spec import identity_of
from scaling.store.records import Refusal
from scaling.study import DataSection
from scaling.tasks.jsonl import Jsonl, read_items
from scaling.tasks.mix import TASKS, TaskSpec
from scaling.tasks.questions import questions, refuse_long
from scaling.tasks.task import Item, evaluation_items
from scaling.tasks.vocabulary import BYTES, Vocabulary, vocabulary_of
from scaling.training.inputs import batches_of

PlanOf = Callable[..., Plan]
TASK: dict[str, Any] = {"task": "steps_direct", "steps": 1}


def mix(**given: Any) -> dict[str, Any]:
    return {"fraction": 0.25, "list": [TASK], **given}


def test_a_batch_has_as_many_task_windows_as_its_fraction_says(
    plan: PlanOf, corpus: Corpus
) -> None:
    run = plan(tasks=mix(fraction=0.75)).runs[0]
    batches = batches_of(run, corpus).span(2, 3)
    assert batches.shape == (3, 4, 17)
    text = corpus.batches(16, 1, run.seed).span(2, 3)
    assert (batches[:, :1] == text).all()
    assert (batches[:, 1:, 0] == BYTES.end).all()
    assert (batches == batches_of(run, corpus).span(0, 5)[2:]).all()


def test_without_tasks_a_run_is_what_it_was(plan: PlanOf, corpus: Corpus) -> None:
    run = plan().runs[0]
    assert identity_of(run)["tasks"] is None
    assert (batches_of(run, corpus).span(0, 3) == corpus.batches(16, 4, 0).span(0, 3)).all()
    assert "task_share" not in plan_table(plan())


def test_a_plan_counts_every_token_and_says_which_share_are_tasks(
    plan: PlanOf, corpus: Corpus
) -> None:
    bare, mixed = (
        plan_table(plan(data={"unique_tokens": 320, "allow_repeats": True}, **more))
        for more in ({}, {"tasks": mix(fraction=0.5)})
    )
    assert (mixed["task_share"] == 0.5).all()
    assert mixed["tokens"].tolist() == bare["tokens"].tolist()
    assert mixed["flops"].tolist() == bare["flops"].tolist()
    assert not set(mixed["run_id"]) & set(bare["run_id"])
    # Half of every batch is new, the other half repeats 320 tokens of text.
    assert (mixed["unique_tokens"] == mixed["tokens"] // 2 + 320).all()


def test_only_the_text_of_a_run_can_run_out(plan: PlanOf, corpus: Corpus) -> None:
    tokens = {"tokens": [corpus.info.train_tokens * 3 // 2]}
    with pytest.raises(Refusal, match="is more than the"):
        plan(grid=tokens)
    assert plan(grid=tokens, tasks=mix(fraction=0.5)).runs


@pytest.mark.parametrize(
    "changed",
    [
        {"fraction": 0.5},
        {"list": [{**TASK, "steps": 2}]},
        {"list": [{**TASK, "weight": 2}, {"task": "sort", "length": 3}]},
    ],
)
def test_what_is_trained_on_determines_the_run(plan: PlanOf, changed: dict[str, Any]) -> None:
    assert plan(tasks=mix()).runs[0].run_id != plan(tasks=mix(**changed)).runs[0].run_id


@pytest.mark.parametrize("changed", [{"shots": [0, 1]}, {"items": 7}, {"samples": 2}])
def test_what_is_asked_does_not(plan: PlanOf, changed: dict[str, Any]) -> None:
    assert plan(tasks=mix()).runs[0].run_id == plan(tasks=mix(**changed)).runs[0].run_id


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fraction": 0.3}, r"fraction = 0\.3 of batch_sequences = 4 is 1\.2 sequences.*0\.25"),
        ({"fraction": 1.0}, r"\[tasks\] fraction = 1\.0"),
        ({"fraction": "half"}, r"\[tasks\] fraction = 'half'"),
        ({"list": []}, r"\[tasks\] list"),
        ({"list": [{"task": "telepathy"}]}, r"entry 1: task = 'telepathy' is not known.*addition"),
        ({"list": [{"digits": 2}]}, r"entry 1: task is missing"),
        ({"list": [{"task": "addition", "digits": 9}]}, r"'addition': digits = 9: .*less than"),
        ({"list": [{"task": "addition", "digit": 2}]}, r"digit is no parameter.*has digits"),
        ({"list": [{"task": "addition", "weight": -1}]}, r"weight = -1: give at least 0"),
        ({"list": [{"task": "addition", "weight": 0}]}, r"every weight is 0"),
        ({"list": [{"task": "sort", "length": [3]}]}, r"length = \[3\]: give a whole number"),
        ({"list": [TASK, {**TASK, "weight": 2}]}, r"'steps_direct steps=1' twice"),
        ({"list": [{"task": "jsonl", "file": "nowhere.jsonl"}]}, r"nowhere\.jsonl: No such file"),
        (
            {"list": [{"task": "ngram", "order": 4, "symbols": 26}]},
            r"17,576 texts of order - 1 = 3",
        ),
        ({"list": [{"task": "jsonl", "file": "a\0b"}]}, r"NUL in its name"),
        ({"list": [{"task": "jsonl"}]}, r"'jsonl': file is missing"),
        ({"shots": []}, r"\[tasks\] shots"),
        ({"shots": [-1]}, r"\[tasks\] shots = -1"),
        ({"items": 0}, r"\[tasks\] items = 0"),
        ({"samples": 0}, r"\[tasks\] samples = 0"),
        ({"every": 5}, r"\[tasks\] every is not a known field"),
    ],
)
def test_tasks_that_cannot_be_are_refused_by_name(
    plan: PlanOf, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        plan(tasks=mix(**changed))


def test_questions_longer_than_a_sequence_are_refused() -> None:
    asked = questions(TASKS["copy"](), 20, 4, BYTES)
    refuse_long(asked, 4, 130)
    with pytest.raises(Refusal, match=r"shots = 4: 'copy length=12'.*sequence_length = 100"):
        refuse_long(asked, 4, 100)


GOOD = {"prompt": "2+2=", "answer": "4"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is no object"),
        (json.dumps({"prompt": "2+2="}), "line 2: answer is missing"),
        (json.dumps({"prompt": 2, "answer": "4"}), "line 2: prompt = '2' is no text"),
        (json.dumps({**GOOD, "score": 1}), "line 2: 'score' is not a known field"),
        (json.dumps({**GOOD, "answer": ""}), "line 2: answer = '' must be one line"),
        (json.dumps({**GOOD, "answer": "4\n5"}), "must be one line"),
        (json.dumps({**GOOD, "answer": "\0"}), "contains NUL"),
        ('{"prompt": "\\ud800", "answer": "4"}', r"prompt = '\\ud800' has half"),
        ('{"prompt": "2+2=", "answer": "\\udc00"}', r"answer = '\\udc00' has half"),
        ('{"prompt": "2", "answer": "4", "choices": ["4", "\\ud800"]}', "choices = .* has half"),
        (json.dumps({**GOOD, "choices": ["4", "\0"]}), "choices contains NUL"),
        (json.dumps({**GOOD, "choices": ["4", 5]}), "choices = '5' is no text"),
        (json.dumps({**GOOD, "choices": "45"}), "line 2: choices is no list"),
        (json.dumps({**GOOD, "choices": ["5", "6"]}), "'4' among them"),
        (json.dumps({**GOOD, "choices": ["4", "4"]}), "different texts"),
        (json.dumps({**GOOD, "choices": ["4", ""]}), "each of choices"),
    ],
)
def test_a_line_that_is_no_item_is_refused_with_its_place(
    tmp_path: Path, line: str, said: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(Refusal, match=said) as caught:
        read_items(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff"])
def test_a_file_without_items_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(content)
    with pytest.raises(Refusal, match=r"tasks\.jsonl"):
        read_items(tmp_path / "tasks.jsonl")


def test_a_file_is_known_by_its_content(tmp_path: Path, plan: PlanOf) -> None:
    lines = [json.dumps({"prompt": f"{n}?", "answer": str(n % 3)}) for n in range(40)]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "c.jsonl").write_text("\n".join(lines[1:]))
    ids = [
        plan(tasks=mix(list=[{"task": "jsonl", "file": str(tmp_path / f"{name}.jsonl")}]))
        .runs[0]
        .run_id
        for name in "abc"
    ]
    assert ids[0] == ids[1] != ids[2]
    spec = TaskSpec("jsonl", {"file": str(tmp_path / "c.jsonl"), "sha256": "0" * 64})
    with pytest.raises(Refusal, match="has changed since the study was planned"):
        spec.build().items()  # type: ignore[attr-defined]


def test_every_held_out_item_of_a_file_is_asked_if_so_many_are(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"{n}?", "answer": "1"}) for n in range(9000)))
    held_out = {item for item in read_items(file)[0] if item.held_out}
    asked = evaluation_items(Jsonl(str(file)), 9000)
    assert len(asked) == len(held_out) > 2000
    assert set(asked) == held_out
    assert evaluation_items(Jsonl(str(file)), 50) == asked[:50]
    assert len({int(item.prompt[:-1]) // 1000 for item in asked[:50]}) > 5  # from all over


def test_one_prompt_is_on_one_side_whatever_its_answers(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    lines = [{"prompt": "?" * (n // 2), "answer": str(n % 2)} for n in range(80)]
    file.write_text("\n".join(map(json.dumps, lines)))
    items = read_items(file)[0]
    assert len({item.held_out for item in items}) == 2
    assert all(a.held_out == b.held_out for a, b in zip(items[::2], items[1::2], strict=True))


def test_two_files_of_one_name_are_two_tasks(tmp_path: Path, plan: PlanOf) -> None:
    files = [tmp_path / folder / "test.jsonl" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        lines = [{"prompt": f"{file.parent.name}{n}?", "answer": "yes"} for n in range(40)]
        file.write_text("\n".join(map(json.dumps, lines)))
    entries = [{"task": "jsonl", "file": str(file)} for file in files]
    (run, *_) = plan(tasks=mix(list=entries)).runs
    assert run.tasks is not None
    labels = {spec.build().label for spec in run.tasks.tasks}
    assert len(labels) == 2
    assert all(re.fullmatch("jsonl test-[0-9a-f]{6}", label) for label in labels)
    with pytest.raises(Refusal, match=r"'jsonl test-[0-9a-f]{6}' twice"):
        plan(tasks=mix(list=entries[:1] * 2))


def test_texts_are_encoded_by_the_tokeniser_of_the_corpus(
    corpus_source: str, section: Callable[..., DataSection], cache: Path
) -> None:
    corpus = prepare(section(corpus_source, tokenizer="bpe:280"), cache / "corpora")
    words = vocabulary_of(corpus)
    tokens = words.answer("the people")
    assert len(tokens) < len("the people\n")
    assert words.answered(tokens) == "the people"
    assert words.prompt((), Item("we", ""))[0] == corpus.info.end_token


def space_before(text: str) -> list[int]:
    """As Llama 2's tokeniser, which puts a space before every text."""
    return BYTES.encode(f" {text}")


def test_a_tokenizer_that_does_not_give_answers_back_is_refused() -> None:
    for encode, decode, said in (
        (space_before, lambda tokens: BYTES.decode(tokens).lstrip(" "), "'0' back as '0 '"),
        (lambda text: BYTES.encode(text.replace("\n", "\r\n")), BYTES.decode, "back as '0.r'"),
        (lambda text: BYTES.encode(text.upper()), BYTES.decode, "'hwk' back as 'HWK'"),
        (lambda text: BYTES.encode(text.replace("\n", "\n\n")), BYTES.decode, "no token for a new"),
    ):
        words = Vocabulary(encode, decode, end=0, identity="")
        with pytest.raises(Refusal, match=r"\[tasks\] the tokenizer .*'bytes'") as caught:
            words.refuse_unreadable("hwk" if "hwk" in said else "0")
        assert re.search(said, str(caught.value))
        with pytest.raises(Refusal, match="the tokenizer"):
            questions(TASKS["copy"](), 2, 0, words)


def test_tokens_without_texts_have_no_tasks(
    section: Callable[..., DataSection], tmp_path: Path, cache: Path
) -> None:
    tokens = np.random.default_rng(0).integers(1, 300, 5000).astype(np.uint16)
    tokens[::50] = 0
    tokens.tofile(tmp_path / "tokens.bin")
    given = {"token_dtype": "uint16", "vocab_size": 300, "end_token": 0}
    corpus = prepare(section(tmp_path / "tokens.bin", **given), cache / "corpora")
    with pytest.raises(Refusal, match=r"\[tasks\] the corpus .* is tokens without a tokenizer"):
        vocabulary_of(corpus)
