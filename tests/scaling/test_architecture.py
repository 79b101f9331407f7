"""A Flax module of another package trains, is counted, and is refused where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.data.corpus import Corpus
from scaling.planning.plan import Plan, make_plan
from scaling.store.records import Refusal
from scaling.study import parse_study
from scaling.training.loop import train

README = Path(__file__).parents[2] / "README.md"
MIXER = {"architecture": "mixer", "n_layers": 2}


@pytest.fixture
def example() -> str:
    """The module that the README shows."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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


def test_the_model_of_the_readme_trains(
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
        ({"training": {"remat": True}}, r"architecture = 'mixer': .*remat = true: this architect"),
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
