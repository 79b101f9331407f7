"""The order of batches is arithmetic on (seed, step)."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.batches import Batches, permute, proportions
from scaling.data.corpus import CorpusInfo, Share, epoch_tokens, unique_tokens
from scaling.store.records import Refusal


def order(size: int, seed: int, epoch: int) -> list[int]:
    return permute(np.arange(size), size, seed, np.full(size, epoch)).tolist()


class Positions:
    """A stream whose tokens are their positions, from an offset on."""

    def __init__(self, tokens: int, offset: int = 0) -> None:
        self.tokens, self.offset = tokens, offset

    def __len__(self) -> int:
        return self.tokens

    def rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        assert (starts >= 0).all() and (starts + width <= self.tokens).all()
        return (self.offset + starts[:, None] + np.arange(width)).astype(np.int32)


def batches(tokens: int, T: int, B: int, seed: int, cap: int | None = None) -> Batches:
    """Positions as tokens, so that a target says where it is from."""
    return Batches((Positions(tokens),), (1,), T, B, seed, cap)


def mixture(
    sizes: list[int], per_block: tuple[int, ...], T: int, cap: int | None = None
) -> Batches:
    """Positions as tokens, each source a million apart."""
    streams = (Positions(n, 10**6 * i) for i, n in enumerate(sizes))
    return Batches(tuple(streams), per_block, T, 1, 0, cap)


def info(sizes: list[int], per_block: tuple[int, ...] = (1,)) -> CorpusInfo:
    parts = enumerate(zip(sizes, per_block, strict=True))
    shares = [Share("", f"source {number}", each, n, 0, 0) for number, (n, each) in parts]
    mixture = tuple(shares) if len(shares) > 1 else ()
    return CorpusInfo("", "", 256, 1, sum(sizes), 1, 1, 1, mixture=mixture)


# --- permutation ---


@pytest.mark.parametrize("size", [*range(1, 70), 97, 127, 128, 129, 1009, 4096, 4097, 10007])
def test_every_epoch_visits_every_sequence_once(size: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (2**32 - 1, 5)):
        assert sorted(order(size, seed, epoch)) == list(range(size))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_a_permutation_is_one_whatever_its_key(size: int, seed: int, epoch: int) -> None:
    assert sorted(order(size, seed, epoch)) == list(range(size))


def test_a_trillion_sequences_need_no_table() -> None:
    index = np.array([0, 1, 10**12 - 1])
    assert len(set(permute(index, 10**12, 0, np.zeros(3, int)).tolist())) == 3


def test_epochs_and_seeds_are_visited_in_different_orders() -> None:
    orders = {tuple(order(101, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_the_order_is_that_of_a_shuffle() -> None:
    """Where the first sequence goes over 4,000 epochs: uniform, by a chi-squared of 49 degrees."""
    places = permute(np.zeros(4000, int), 50, 3, np.arange(4000))
    observed = np.bincount(places, minlength=50)
    assert ((observed - 80) ** 2 / 80).sum() < 49 + 5 * np.sqrt(2 * 49)


def test_the_order_of_finished_runs_stays() -> None:
    assert order(10, 3, 1) == [6, 7, 2, 0, 9, 8, 5, 4, 3, 1]
    assert batches(200, 8, 2, 3).at(7)[:, 0].tolist() == [96, 48]


# --- one source ---


@given(first=st.integers(0, 500), count=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_a_span_is_its_batches_stacked(first: int, count: int, seed: int) -> None:
    for each in (batches(1024, 7, 5, seed), mixture([500, 90], (3, 2), 7)):
        stacked = np.stack([each.at(step) for step in range(first, first + count)])
        assert (each.span(first, count) == stacked).all()
        assert (each.span(first, count, slice(1, 3)) == stacked[:, 1:3]).all()


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    one = batches(5000, 16, 4, 1)
    forward = [batches(5000, 16, 4, 1).at(step) for step in range(200)]
    assert all((one.at(step) == forward[step]).all() for step in reversed(range(200)))


def test_an_epoch_trains_every_target_once() -> None:
    """25 sequences of 10, each target the token after its input."""
    epoch = batches(256, 10, 5, 0).span(0, 5).reshape(-1, 11)
    assert (epoch[:, 1:] == epoch[:, :-1] + 1).all()
    assert sorted(epoch[:, 1:].ravel().tolist()) == list(range(1, 251))


@pytest.mark.parametrize("cap", [None, 16, 47, 48, 100])
@pytest.mark.parametrize("tokens", [17, 100, 161])
def test_unique_tokens_are_the_distinct_targets_that_were_trained(
    tokens: int, cap: int | None
) -> None:
    T, B = 16, 2
    run = batches(tokens, T, B, 0, cap)
    for steps in range(1, 12):
        distinct = len(np.unique(run.span(0, steps)[..., 1:]))
        assert unique_tokens(steps * B * T, info([tokens]), T, cap) == distinct
        assert (distinct == steps * B * T) == (
            steps * B * T <= epoch_tokens(info([tokens]), T, cap)
        )


# --- cap ---


def seen(cap: int | None, seed: int) -> set[int]:
    return set(batches(1000, 7, 1, seed, cap).span(0, 300)[..., 1:].ravel().tolist())


def test_a_smaller_cap_shows_a_part_of_what_a_larger_one_does_whatever_the_seed() -> None:
    caps = [7, 70, 210, 600]
    shown = [seen(cap, seed=number) for number, cap in enumerate(caps)]
    assert all(small < large for small, large in pairwise(shown))
    assert [len(tokens) for tokens in shown] == [cap // 7 * 7 for cap in caps]


def test_a_cap_is_no_contiguous_part_of_the_stream() -> None:
    assert np.ptp(sorted(seen(70, 0))) > 500


def test_epochs_under_a_cap_have_different_orders() -> None:
    run = batches(1000, 7, 10, 0, 70)
    epochs = [tuple(run.at(step)[:, 0].tolist()) for step in range(20)]
    assert len(set(epochs)) == 20
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1


def test_a_cap_of_the_whole_corpus_changes_nothing() -> None:
    assert (batches(1000, 7, 3, 5, 10**6).span(0, 99) == batches(1000, 7, 3, 5).span(0, 99)).all()


def test_a_cap_below_a_sequence_of_every_source_is_refused() -> None:
    with pytest.raises(Refusal, match="unique_tokens = 15 holds no whole sequence of 16"):
        epoch_tokens(info([100]), 16, 15)
    with pytest.raises(Refusal, match="of every source"):
        mixture([100, 100], (9, 1), 16, cap=16 * 9).at(0)


def test_a_cap_of_which_a_source_lacks_its_part_is_refused() -> None:
    known = info([1000, 100], (1, 1))
    for cap in (None, 200):
        assert unique_tokens(400, known, 10, cap)
    words = "unique_tokens = 220: its part of 'source 1' is 110 tokens, which has 100"
    for ask in (lambda: unique_tokens(400, known, 10, 220), lambda: epoch_tokens(known, 10, 220)):
        with pytest.raises(Refusal, match=words):
            ask()


# --- mixture ---


@given(
    weights=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    first=st.integers(0, 50),
    blocks=st.integers(1, 4),
)
def test_every_block_has_each_source_in_exact_proportion(
    weights: list[int], first: int, blocks: int
) -> None:
    per_block = proportions(weights)
    size = sum(per_block)
    run = mixture([1000] * len(weights), per_block, 8)
    source, visit = run.turns(np.arange(first * size, (first + blocks) * size))
    assert Counter(source.tolist()) == {i: n * blocks for i, n in enumerate(per_block)}
    for number, each in enumerate(per_block):
        mine = sorted(visit[source == number].tolist())
        assert mine == list(range(first * each, (first + blocks) * each))


def test_weights_are_met_as_typed() -> None:
    assert proportions([0.7, 0.3]) == (7, 3)
    assert proportions([2.0, 1.0, 1.0]) == (2, 1, 1)
    assert proportions([0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02])[:2] == (134, 30)
    assert proportions([5.0]) == (1,)


def test_weights_that_no_block_meets_are_refused() -> None:
    with pytest.raises(Refusal, match=r"weights 0\.12345, 0\.6 are met exactly only every"):
        proportions([0.12345, 0.6])


def test_blocks_differ_in_order() -> None:
    run = mixture([10**5, 10**5], (5, 5), 8)
    blocks = run.turns(np.arange(1000))[0].reshape(100, 10)
    assert len({tuple(block) for block in blocks.tolist()}) > 80


@pytest.mark.parametrize("cap", [None, 400])
def test_a_mixture_repeats_a_source_only_after_all_of_it(cap: int | None) -> None:
    sizes, per_block, T = [401, 165], (3, 1), 8  # 50 and 20 sequences; 16 blocks are one epoch
    run, known = mixture(sizes, per_block, T, cap), info(sizes, per_block)
    for blocks in range(1, 60):
        targets = run.span(0, 4 * blocks)[..., 1:].ravel()
        distinct = len(np.unique(targets))
        assert unique_tokens(4 * blocks * T, known, T, cap) == distinct
        assert (distinct == len(targets)) == (len(targets) <= epoch_tokens(known, T, cap))
    assert epoch_tokens(known, T) == 16 * 4 * T


def test_caps_of_a_mixture_are_nested_too() -> None:
    shown = [
        set(mixture([4001, 1600], (3, 1), 8, cap).span(0, 2000)[..., 1:].ravel().tolist())
        for cap in (64, 640, 3200)
    ]
    assert shown[0] < shown[1] < shown[2]
    assert sum(token < 10**6 for token in shown[1]) == 640 * 3 // 4


def test_sources_of_one_size_are_not_visited_in_one_order() -> None:
    run = mixture([801, 801], (1, 1), 8)
    starts = run.span(0, 200)[:, 0, 0]
    assert starts[starts < 10**6].tolist() != (starts[starts >= 10**6] - 10**6).tolist()
