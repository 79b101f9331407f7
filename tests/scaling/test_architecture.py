"""A Flax module of another package trains, is counted, and is refused where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.architecture import architecture
from models.sharding import make_mesh
from scaling.data.corpus import Corpus
from scaling.planning.layout import Layout
from scaling.planning.plan import Plan, make_plan
from scaling.spec import Optimizer
from scaling.store.records import Refusal
from scaling.study import parse_study
from scaling.training.loop import Interrupted, train
from scaling.training.step import Metrics, make_program

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
TOY = Path(__file__).parents[1] / "models" / "toy.py"
MIXER = {"architecture": "mixer", "n_layers": 2}


@pytest.fixture
def example() -> str:
    """The module that the page on extending shows."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = (block for block in blocks if "# my_models.py" in block)
    return found


@pytest.fixture
def mixed(table: Callable[..., dict[str, Any]], corpus: Corpus) -> Callable[..., Plan]:
    """The plan of a small study of it, with fields of its sections replaced."""

    def make(model: dict[str, Any] | None = None, **sections: Any) -> Plan:
        raw = table(**sections)
        raw["model"] = {**MIXER, **(model or {})}
        return make_plan(parse_study(raw, "mixed.toml"), corpus.info)

    return make


def test_the_model_of_the_page_trains(
    declare: Callable[..., Path],
    example: str,
    mixed: Callable[[], Plan],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    declare({"my_models.py": example}, mixer="my_models:MIXERS")
    run = mixed().runs[0]
    assert (run.architecture, run.model.n_layers) == ("mixer", 2)
    (tmp_path / "runs").mkdir()
    trained = train(run, tmp_path / "runs" / run.run_id, corpus)
    assert 0 < trained.holdout.loss < trained.train_loss + 1
    assert run.flops_6nd == 6 * run.params.total * run.tokens


def test_another_program_of_the_same_name_is_another_run(
    declare: Callable[..., Path], example: str, mixed: Callable[[], Plan]
) -> None:
    folder = declare({"my_models.py": example}, mixer="my_models:MIXERS")
    before = mixed().runs[0].run_id
    (folder / "my_models.py").write_text(example.replace("gelu", "relu"))
    assert mixed().runs[0].run_id != before


def test_a_count_that_the_tree_contradicts_is_refused(
    declare: Callable[..., Path],
    example: str,
    mixed: Callable[[], Plan],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    wrong = example.replace(" vector=5 * L * D", " vector=4 * L * D")
    assert wrong != example
    declare({"my_models.py": wrong}, mixer="my_models:MIXERS")
    run = mixed().runs[0]
    words = r"architecture = 'mixer': .* of the kind 'vector' and count_params says"
    with pytest.raises(Refusal, match=words):
        train(run, tmp_path / run.run_id, corpus)


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"model": {"n_layers": 2.5}}, r"\[model\] n_layers = 2.5: .* valid integer"),
        ({"model": {"n_layer": 2}}, r"\[model\] n_layer is not .* Did you mean n_layers\?"),
        ({"model": {"head_dim": 8}}, r"\[model\] head_dim is not a known field"),
        ({"model": {"architecture": "mixers"}}, r"\[model\] architecture = .*mean 'mixer'\?"),
        ({"model": {"architecture": 3}}, r"\[model\] architecture = 3 must be the name"),
        (
            {"hardware": {"remat": "full"}},
            r"\[hardware\] architecture = 'mixer': .*remat = 'full'",
        ),
        ({"training": {"optimizer": "muon"}}, r'"muon": architecture = .mixer. names no matrices'),
        ({"grid": {"params": [10]}}, r"less than half of the smallest.*Give at least 34\.$"),
        ({"grid": {"params": [], "presets": ["x"]}}, r"architecture = 'mixer' has no presets\."),
    ],
    ids=str,
)
def test_a_study_of_it_that_is_wrong_is_refused_as_one_of_ours(
    declare: Callable[..., Path],
    example: str,
    mixed: Callable[..., Plan],
    sections: dict[str, Any],
    words: str,
) -> None:
    declare({"my_models.py": example}, mixer="my_models:MIXERS")
    with pytest.raises(Refusal, match=words):
        mixed(**sections)


def test_a_run_of_it_that_was_stopped_ends_with_the_same_bits(
    toy: str, table: Callable[..., dict[str, Any]], corpus: Corpus, tmp_path: Path
) -> None:
    raw = table(grid={"params": [2000]})
    raw["model"] = {"architecture": toy, "expansion": 2}
    run = make_plan(parse_study(raw, "bags.toml"), corpus.info).runs[0]
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
    whole = train(run, tmp_path / "whole" / run.run_id, corpus)
    seen: list[int] = []
    with pytest.raises(Interrupted):
        train(
            run,
            tmp_path / "halved" / run.run_id,
            corpus,
            report=lambda progress: seen.append(progress.step),
            should_stop=lambda: bool(seen),
        )
    assert train(run, tmp_path / "halved" / run.run_id, corpus) == whole


def test_a_penalty_is_in_the_gradient_and_not_in_the_reported_loss(
    declare: Callable[..., Path],
) -> None:
    source = TOY.read_text()
    declare(
        {"toy.py": source, "large.py": source.replace("penalty=1e-3", "penalty=1e3")},
        bag="toy:BAG",
        large="large:BAG",
    )
    tokens = np.random.default_rng(0).integers(0, 40, (1, 4, 9)).astype(np.int32)

    def first_step(name: str) -> Metrics:
        config = architecture(name).config(40, 8, 4, 8)
        optimizer = Optimizer(0.9, 0.95, 0.1, 1.0)
        program = make_program(name, config, optimizer, 0, Layout(8), make_mesh())
        rates = program.put_rates(np.zeros(1, np.float32))
        return program.train(program.initial(), program.put_batches(tokens), rates)[1]

    small, large = first_step("bag"), first_step("large")
    assert small.loss == large.loss
    assert large.grad_norm > 10 * small.grad_norm
