"""What is shown of a fit where it is printed, and in a notebook."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.published import published


@pytest.fixture(scope="module")
def fitted() -> Fit:
    params, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4))
    )
    loss = published("besiroglu-2024").predict({"params": params, "tokens": tokens})
    loss *= np.exp(np.random.default_rng(0).normal(0, 0.01, len(loss)))
    runs = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    return fit("chinchilla", runs, bootstrap=100, checks=False)


def test_a_fit_prints_as_its_summary(fitted: Fit) -> None:
    assert str(fitted) == repr(fitted) == fitted.summary()
    assert fitted.summary().startswith("chinchilla on 16 runs")


def test_a_notebook_shows_the_numbers_of_the_summary_as_a_table(fitted: Fit) -> None:
    shown = fitted._repr_html_()
    rows = re.findall(r"<tr.*?>(.*?)</tr>", shown, flags=re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells[0] == ["", "estimate", "90% interval", "flat with"]
    assert [row[0] for row in cells[1:]] == list(law("chinchilla").coefficients)
    lines = fitted.summary().splitlines()
    for row in cells[1:]:
        assert any(line.split() == " ".join(row).split() for line in lines)
    assert f"<p>{fitted.status.value}: " in shown
    assert fitted.law.latex in fitted._repr_latex_()
    assert shown.count("<p>warning: ") == len(fitted.warnings) > 0


def test_no_text_of_a_file_is_html_in_a_notebook(fitted: Fit) -> None:
    wild = "<script>alert('x')</script>"
    shown = replace(
        fitted, law=replace(fitted.law, name=wild), reason=wild, warnings=(wild,)
    )._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3
