"""How every figure looks: log axes that always show readable ticks, colours that can be told apart,
a title, a caption that says what was counted, and files that are the same bytes each time.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from numpy.typing import ArrayLike, NDArray

from analysis.units import human
from scaling.store.records import write_bytes

Colour = tuple[float, float, float, float]
Kind = Literal["count", "flops", "loss"]

INK = "#222222"
FAINT = "#8a8a8a"
OWN = "#0072B2"  # Okabe & Ito 2008: distinct under the common colour-vision deficiencies
DASHED = (0, (4, 2.5))
DPI = 150
MANY = 8  # distinct values a legend can name; beyond them a colour bar
OTHERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00")

_RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: no dependence on the machine
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "svg.hashsalt": "scaling",
    "svg.fonttype": "path",
}


@contextmanager
def figure(width: float = 7.5, height: float = 4.6, title: str = "") -> Iterator[Figure]:
    """A Figure outside pyplot's state, in the house style, under its title."""
    with mpl.rc_context(_RC):
        made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(made)
        if title:
            made.suptitle(title, x=0.012, ha="left")
        yield made


@contextmanager
def panel(ax: Axes | None, width: float, height: float, title: str) -> Iterator[Axes]:
    """One panel in the house style: `ax`, or the only axes of a Figure under its title."""
    if ax is None:
        with figure(width, height, title) as made:
            yield made.add_subplot()
    else:
        with mpl.rc_context(_RC):
            yield ax


def figure_of(axes: Axes) -> Figure:
    """The Figure that holds the axes, at whatever depth."""
    made = axes.get_figure(root=True)
    assert made is not None
    return made


def set_caption(made: Figure, caption: str) -> None:
    """Put `caption`, wrapped to the figure's width, below the axes."""
    characters = int(made.get_figwidth() * 15.5)
    text = "\n".join(textwrap.wrap(caption, characters, break_on_hyphens=False))
    made.supxlabel(text, x=0.012, ha="left", fontsize=8, color="#555555", linespacing=1.35)


def save(made: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png (150 dpi) and `stem`.svg atomically; the same figure gives the same bytes.

    Returns the two paths. Raises Refusal if a file cannot be written.
    """
    paths = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    with mpl.rc_context(_RC):
        made.draw_without_rendering()
        made.set_layout_engine("none")  # laid out once: the two files agree, in a third of the time
        for path, kind, metadata in (
            (paths[0], "png", {"Software": None}),
            (paths[1], "svg", {"Date": None, "Creator": None}),
        ):
            buffer = io.BytesIO()
            made.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            write_bytes(path, buffer.getvalue())
    return paths


# --- axes -------------------------------------------------------------------------------------


def log_axis(axis: Axis, label: str, kind: Kind) -> None:
    """Make `axis` logarithmic with ticks that are readable over any range, labelled by `kind`."""
    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_major_locator(_LogTicks())
    axis.set_major_formatter(FuncFormatter(_FORMATS[kind]))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)


class _LogTicks(Locator):
    """Round values: decades over wide ranges, 1-2-5 over narrow ones, even steps within one."""

    def __call__(self) -> list[float]:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        stride = max(1, math.ceil((last - first) / 8))
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
            step = stride if len(digits) == 1 else 1
            ticks = np.array(
                [d * 10.0**power for power in range(first, last + 1, step) for d in digits]
            )
            inside = ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)]
            if len(inside) >= 4:
                return [float(tick) for tick in inside]
        ticks = np.asarray(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        inside = ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001) & (ticks > 0)]
        return [float(tick) for tick in inside]


def _count(value: float, _: int | None = None) -> str:
    return human(value)


def _flops(value: float, _: int | None = None) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10.0**power
    if math.isclose(mantissa, 1.0, rel_tol=1e-6):
        return f"$10^{{{power}}}$"
    return f"${mantissa:.3g}{{\\times}}10^{{{power}}}$"


def _loss(value: float, _: int | None = None) -> str:
    return f"{value:.4g}"


_FORMATS: dict[Kind, Callable[[float, int | None], str]] = {
    "count": _count,
    "flops": _flops,
    "loss": _loss,
}


# --- colour -----------------------------------------------------------------------------------


class Palette:
    """A colour for each value of a positive quantity, the darker the larger.

    Up to MANY levels have colours evenly apart, however near their values lie; more are coloured
    by their logarithm. The palettes are seaborn's for marks on white paper.
    """

    def __init__(self, values: ArrayLike, name: Literal["crest", "flare"] = "crest") -> None:
        import seaborn  # here, since it takes a second

        self.levels = levels(values)
        self.map: Colormap = seaborn.color_palette(name, as_cmap=True)
        low, high = float(self.levels[0]), float(self.levels[-1])
        self.norm = LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)

    @property
    def few(self) -> bool:
        """Whether a legend can name every level."""
        return len(self.levels) <= MANY

    def __call__(self, value: float) -> Colour:
        at = float(self.norm(value))
        if self.few and len(self.levels) > 1:
            places = np.linspace(0, 1, len(self.levels))
            at = float(np.interp(math.log(value), np.log(self.levels), places))
        return self.map(at)

    def key(
        self,
        made: Figure,
        axes: Axes,
        letter: str,
        label: str,
        *,
        line: bool = True,
        also: Sequence[Artist] = (),
        marked: ArrayLike | None = None,
    ) -> None:
        """Say above `axes` what the colours mean: a legend, or a bar if it grew too long.

        `line` draws the legend's samples as lines. `also` are further entries for the legend;
        with any, a bar stands to the right. `marked` are the values at a bar's ticks.
        """
        handles: list[Artist] = list(also)
        if not self.few:
            self.bar(made, [axes], label, "right" if also else "top", marked)
        else:
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "linestyle": "-" * line}
            handles[:0] = [
                Line2D([], [], color=self(each), label=f"{letter} = {human(each)}", **style)
                for each in self.levels
            ]
        if handles:
            legend_above(axes, handles)

    def bar(
        self,
        made: Figure,
        axes: Sequence[Axes],
        label: str,
        location: Literal["right", "top"] = "right",
        marked: ArrayLike | None = None,
        kind: Kind = "count",
    ) -> None:
        """A colour bar beside `axes`; a step for each level where they are few."""
        place: dict[str, Any] = {"ax": list(axes), "location": location, "pad": 0.02, "aspect": 30}
        if self.few:
            count = len(self.levels)
            steps = ListedColormap([self(float(each)) for each in self.levels])
            shades = ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, count), steps)
            bar = made.colorbar(shades, ticks=range(count), label=label, **place)
            bar.set_ticklabels([human(each) for each in self.levels])
            bar.minorticks_off()
        else:
            bar = made.colorbar(ScalarMappable(self.norm, self.map), **place)
            axis = bar.ax.xaxis if location == "top" else bar.ax.yaxis
            log_axis(axis, label, kind)
            if marked is not None:
                axis.set_major_locator(FixedLocator(np.asarray(marked, dtype=np.float64).tolist()))
        bar.outline.set_visible(False)


def legend_above(axes: Axes, handles: Sequence[Artist], columns: int = 4) -> None:
    """A legend that no curve can reach, with room for a line that ends at the top of the axes."""
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.03), ncols=columns,
        borderaxespad=0, borderpad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def points(
    axes: Axes, x: ArrayLike, y: ArrayLike, by: ArrayLike, palette: Palette, zorder: float = 3.0
) -> None:
    """One point a run, coloured by the values `by`; smaller when there are many."""
    colours = [palette(float(value)) for value in np.asarray(by)]
    area = 22.0 if len(colours) < 100 else 13.0
    axes.scatter(x, y, s=area, c=colours, edgecolor="white", linewidth=0.4, zorder=zorder)


def levels(values: ArrayLike, tolerance: float = 0.02) -> NDArray[np.float64]:
    """The distinct values, rising; those within `tolerance` of a smaller one count as it."""
    known = np.unique(np.asarray(values, dtype=np.float64))
    found: list[float] = []
    while len(known):
        near = known <= known[0] * (1 + tolerance)
        found.append(float(known[near].mean()))
        known = known[~near]
    return np.array(found)


# --- named points -----------------------------------------------------------------------------


def place_landmarks(
    axes: Axes,
    models: Iterable[tuple[str, float | None, float | None]],
    avoid: Iterable[tuple[float, float]] = (),
) -> None:
    """Draw named points (name, x, y) and set each name where it covers no other, if any place is.

    Nor does a name cover the points `avoid`, or lie as near to another named point. The axes'
    limits must be set. Sizes are estimated in points; the layout may still shift, unless the
    figure was laid out before.
    """
    scale = 72 / axes.figure.dpi
    width, height = axes.bbox.width * scale, axes.bbox.height * scale
    (left, right), (low, high) = np.log(axes.get_xlim()), np.log(axes.get_ylim())

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log(x) - left) / (right - left), (math.log(y) - low) / (high - low)
        return across * width, up * height

    known = [(name, x, y, *place(x, y)) for name, x, y in models if x is not None and y is not None]
    taken = [(px - 3, py - 3, px + 3, py + 3) for *_, px, py in known]
    taken += [(px - 4, py - 4, px + 4, py + 4) for px, py in (place(x, y) for x, y in avoid)]
    for name, x, y, px, py in known:
        axes.plot(
            x, y, marker="D", markersize=4.2, linestyle="", color="#444444",
            markeredgecolor="white", markeredgewidth=0.5, zorder=6,
        )  # fmt: skip
        size = 4.7 * len(name)
        for across, up in _AROUND:
            x0 = px + (5 if across > 0 else -5 - size if across < 0 else -size / 2)
            y0 = py + (up * 8.5 - 3.5)
            box = (x0, y0, x0 + size, y0 + 7.5)
            free = not any(_overlap(box, other) for other in taken)
            others = [(qx, qy) for *_, qx, qy in known if (qx, qy) != (px, py)]
            free &= all(_distance(box, q) > NEARER * _distance(box, (px, py)) for q in others)
            if free and box[0] > 0 and box[2] < width and box[1] > 0 and box[3] < height:
                break
        else:
            continue  # no room: the point stays, its name would hide another's
        taken.append(box)
        axes.annotate(
            name, (x, y), xytext=(x0 - px, y0 - py), textcoords="offset points", fontsize=7.2,
            zorder=7, path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )  # fmt: skip


NEARER = 2.0  # times as far from a name as its own point, at least, is every other
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))  # farther off it might be another's name
_Box = tuple[float, float, float, float]


def _distance(box: _Box, point: tuple[float, float]) -> float:
    """From a point to the nearest edge of a box outside which it lies."""
    (x0, y0, x1, y1), (x, y) = box, point
    return math.hypot(max(x0 - x, x - x1, 0.0), max(y0 - y, y - y1, 0.0))


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
