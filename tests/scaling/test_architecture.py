"""A Flax module of another package trains, is counted, and is refused where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.architecture import GROUP, architecture
from models.decoder.count import count_params
from scaling.data.corpus import Corpus
from scaling.planning.plan import Plan
from scaling.store.records import Refusal
from scaling.training.loop import train

README = Path(__file__).parents[2] / "README.md"
MIXER = {"overrides": {"architecture": "mixer"}}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a module as the package of the README declares it."""

    def install(source: str) -> None:
        (tmp_path / "my_models.py").write_text(source)
        info = tmp_path / "my_models-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-models\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nmixer = my_models\n")
        monkeypatch.syspath_prepend(tmp_path)

    architecture.cache_clear()
    yield install
    architecture.cache_clear()
    __import__("sys").modules.pop("my_models", None)


@pytest.fixture
def example() -> str:
    """The module that the README shows."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (found,) = (block for block in blocks if "# my_models.py" in block)
    return found


def test_the_model_of_the_readme_trains(
    installed: Callable[[str], None],
    example: str,
    plan: Callable[..., Plan],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    installed(example)
    made = plan(model=MIXER)
    run = made.runs[0]
    assert run.model.architecture == "mixer"
    assert run.run_id != plan().runs[0].run_id
    (tmp_path / "runs").mkdir()
    trained = train(run, tmp_path / "runs" / run.run_id, corpus)
    assert 0 < trained.holdout.loss < trained.train_loss + 1
    assert run.flops_6nd == 6 * count_params(run.model).total * run.tokens


def test_another_program_of_the_same_name_is_another_run(
    installed: Callable[[str], None], example: str, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    installed(example)
    before = plan(model=MIXER).runs[0].run_id
    (tmp_path / "my_models.py").write_text(example.replace("gelu", "relu"))
    assert plan(model=MIXER).runs[0].run_id != before


def test_a_count_that_the_tree_contradicts_is_refused(
    installed: Callable[[str], None],
    example: str,
    plan: Callable[..., Plan],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    wrong = example.replace(" head=V * D,", " head=0,")
    assert wrong != example
    installed(wrong)
    run = plan(model=MIXER).runs[0]
    with pytest.raises(Refusal, match=r"architecture = 'mixer': .* count_params says"):
        train(run, tmp_path / run.run_id, corpus)


@pytest.mark.parametrize(
    "source, overrides, hardware, words",
    [
        ("", {"architecture": "mixer"}, {}, r"my_models has no build\(\)"),
        ("", {"architecture": "mamba"}, {}, r"'mamba' is not installed; .* add 'mixer'"),
        ("", {"architecture": 3}, {}, "valid string"),
        ("import nowhere", {"architecture": "mixer"}, {}, "cannot load my_models: .*nowhere"),
        (None, {"architecture": "mixer"}, {"remat": True}, r"\[hardware\] layers, remat"),
    ],
)
def test_an_architecture_that_cannot_be_had_is_refused(
    installed: Callable[[str], None],
    example: str,
    plan: Callable[..., Plan],
    source: str | None,
    overrides: dict[str, Any],
    hardware: dict[str, Any],
    words: str,
) -> None:
    installed(example if source is None else source)
    with pytest.raises(Refusal, match=words):
        plan(model={"overrides": overrides}, hardware=hardware)
