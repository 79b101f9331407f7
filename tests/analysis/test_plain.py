import json
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd
import pytest

from analysis.interval import Interval
from analysis.plain import plain


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Result:
    value: float
    interval: Interval | None
    colour: Colour
    counts: dict[str, np.int64]
    table: pd.DataFrame
    draws: np.ndarray


def test_a_result_is_json_at_full_precision_and_what_is_no_number_is_null():
    result = Result(
        np.float64(0.1) + np.float64(0.2), Interval(float("-inf"), 2.0), Colour.RED,
        {"runs": np.int64(3)}, pd.DataFrame({"n": [1, 2], "loss": [0.5, np.nan]}),
        np.array([[1.0], [np.inf]]),
    )  # fmt: skip
    read = json.loads(json.dumps(plain(result), allow_nan=False))
    assert read == {
        "value": 0.1 + 0.2,
        "interval": [None, 2.0],
        "colour": "red",
        "counts": {"runs": 3},
        "table": [{"n": 1, "loss": 0.5}, {"n": 2, "loss": None}],
        "draws": [[1.0], [None]],
    }


def test_what_json_cannot_hold_is_no_plain_value():
    with pytest.raises(TypeError, match="is no value that JSON can hold"):
        plain({"names": {"a", "b"}})
