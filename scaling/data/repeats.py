"""Exact copies of documents, found by the hashes of their contents."""

from __future__ import annotations

import numpy as np

from scaling.data.documents import KEY, ROWS

GROUP = 1 << 24  # documents sorted at once, which takes half a gigabyte


def repeats(keys: np.ndarray) -> np.ndarray:
    """Of keys of shape (n, KEY), whether each was there before: bool, shape (n,).

    Keys are hashes and so spread evenly: those that begin alike are sorted together, a group after
    the other. Of a hundred million documents no more than a group is in memory.
    """
    found = np.zeros(len(keys), bool)
    groups = -(-len(keys) // GROUP)
    for group in range(groups):
        rows = _rows(keys, group, groups)
        if len(rows) < 2:
            continue
        first = _column(keys, rows, 0)
        order = np.argsort(first, kind="stable")
        alike = first[order][1:] == first[order][:-1]
        # Most documents have no copy, which the first eight bytes show.
        maybe = order[np.append(False, alike) | np.append(alike, False)]
        maybe.sort()
        rows = rows[maybe]
        columns = [_column(keys, rows, number) for number in range(KEY // 8)]
        order = np.lexsort(columns)  # stable, so that the first of equal ones stays the first
        alike = np.ones(max(0, len(maybe) - 1), bool)
        for column in columns:
            alike &= column[order][1:] == column[order][:-1]
        found[rows[order][1:][alike]] = True
    return found


def _rows(keys: np.ndarray, group: int, groups: int) -> np.ndarray:
    """The rows whose keys begin as those of a group do, ascending."""
    rows = []
    for start in range(0, len(keys), ROWS):
        begins = np.ascontiguousarray(keys[start : start + ROWS, :2]).view(">u2")[:, 0]
        # Of 65,536 beginnings each group has its share.
        rows.append(start + np.flatnonzero(begins.astype(np.int64) * groups >> 16 == group))
    return np.concatenate(rows)


def _column(keys: np.ndarray, rows: np.ndarray, number: int) -> np.ndarray:
    """Eight bytes of each of these rows as a number."""
    found = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), ROWS):
        some = keys[rows[start : start + ROWS], 8 * number : 8 * (number + 1)]
        found[start : start + ROWS] = np.ascontiguousarray(some).view(">u8")[:, 0]
    return found
