"""How every figure looks: theme, axes, colours, one legend, one caption, the same bytes each time.

A panel function draws into the axes it is given, or into a figure of its own where it is given
none, and returns the axes. What a caption should say of a panel is kept with its axes; `finish`
writes the title and the caption of a whole figure from it.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    Formatter,
    FuncFormatter,
    Locator,
    LogFormatterSciNotation,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)
from numpy.typing import ArrayLike, NDArray

from analysis.interval import Interval
from analysis.text import count_of, human, scientific
from scaling.store.records import MADE_BY, write_bytes

Colour = tuple[float, float, float, float]
Kind = Literal["count", "flops", "loss"]

INK = "#262626"  # seaborn's own
FAINT = "#8a8a8a"
PALE = "#c4c4c4"
# Seaborn's `colorblind`, without its grey and its yellow: distinct under the common deficiencies
# of colour vision.
QUALITATIVE = tuple(sns.color_palette("colorblind").as_hex()[i] for i in (0, 3, 2, 4, 1, 9, 5, 6))
OWN, OTHERS = QUALITATIVE[0], QUALITATIVE[1:5]
# Dark for large values. Both ends of seaborn's palettes are left out: the palest is lost on paper,
# and black is the colour of the text.
SIZES, WARM = (
    sns.blend_palette(
        sns.color_palette(f"{name}_r", as_cmap=True)(np.linspace(0.15, 0.88, 9)), as_cmap=True
    )
    for name in ("viridis", "rocket")
)
DASHED = (0, (4, 2.5))
DOTTED = (0, (1, 2))
DPI = 150
SIZE = (7.5, 5.2)  # inches, of a figure of one panel
PAIR = (10.0, 5.2)  # of two side by side
MANY = 8  # distinct values a legend can name; beyond them a colour bar


def theme() -> Any:
    """Matplotlib's settings for our figures: seaborn's `ticks` style at the size of a paper."""
    bare = {"axes.spines.top": False, "axes.spines.right": False}
    ours = {
        "font.family": "DejaVu Sans",  # ships with matplotlib: no dependence on the machine
        "axes.titlelocation": "left",
        "figure.titlesize": 11,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
        "svg.hashsalt": "scaling",
        "svg.fonttype": "path",
    }
    return {**sns.axes_style("ticks", bare), **sns.plotting_context("paper"), **ours}


# --- figures, panels, titles and captions -------------------------------------------------------


@dataclass
class About:
    """What the title and the caption of a figure say of one panel."""

    title: str
    counted: str  # n and the convention of N
    doubts: str = ""
    notes: list[str] = field(default_factory=list)


_ABOUT: WeakKeyDictionary[Axes, About] = WeakKeyDictionary()


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A Figure outside pyplot's state, in the theme, to be drawn on inside the context."""
    with mpl.rc_context(theme()):
        made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(made)
        yield made


@contextmanager
def panel(ax: Axes | None, title: str, counted: str = "", doubts: str = "") -> Iterator[Axes]:
    """The axes to draw on in the theme: `ax`, or those of a pyplot figure, which notebooks show.

    A figure made here gets its title and caption when the context ends; that of a given `ax` gets
    neither, unless `finish` is called on it.
    """
    with mpl.rc_context(theme()):
        if ax is None:
            from matplotlib import pyplot  # chooses a backend: only where a figure is shown

            axes = pyplot.figure(figsize=SIZE, layout="constrained").add_subplot()
        else:
            axes = ax
        sns.despine(ax=axes)  # axes that were given were made in another theme
        _ABOUT[axes] = About(title, counted, doubts)
        yield axes
        if ax is None:
            finish(figure_of(axes))


def alone(
    draw: Callable[..., Axes], *given: Any, size: tuple[float, float] = SIZE, **options: Any
) -> Figure:
    """The finished Figure of one panel, outside pyplot's state."""
    with figure(*size) as made:
        draw(*given, ax=made.add_subplot(), **options)
        finish(made)
    return made


def note(axes: Axes, *sentences: str) -> None:
    """Add to what the caption says of a panel; empty sentences are left out."""
    _ABOUT[axes].notes += filter(None, sentences)


def finish(made: Figure, title: str | None = None, counted: str | None = None) -> None:
    """Write the title and the caption: what was counted, what its panels note, and the doubts.

    The title and the counts are those of the first panel, unless given. Panels that note the same
    say it once.
    """
    known = [_ABOUT[axes] for axes in made.axes if axes in _ABOUT]
    notes = [sentence for each in known for sentence in each.notes]
    said = [known[0].counted if counted is None else counted, *notes, known[0].doubts]
    text = " ".join(dict.fromkeys(filter(None, said)))
    characters = int(made.get_figwidth() * 16)
    lines = textwrap.wrap(text, characters, break_on_hyphens=False)
    made.suptitle(known[0].title if title is None else title, x=0.012, ha="left")
    made.supxlabel(
        "\n".join(lines), x=0.012, ha="left", fontsize=8, color="#555555", linespacing=1.3
    )


def counted(what: str, convention: str | None = None) -> str:
    """The first words of every caption: how many points, and what N counts."""
    return f"n = {what}." + ("" if convention is None else f" N = {count_of(convention)}.")


def figure_of(axes: Axes) -> Figure:
    """The Figure that holds the axes, at whatever depth."""
    made = axes.get_figure(root=True)
    assert made is not None
    return made


def save(made: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png (150 dpi) and `stem`.svg atomically; the same figure gives the same bytes.

    Returns the two paths. Raises Refusal if a file cannot be written.
    """
    paths = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    undated: Any = ({"Software": MADE_BY}, {"Date": None, "Creator": MADE_BY})
    with mpl.rc_context(theme()):
        made.draw_without_rendering()
        made.set_layout_engine("none")  # laid out once: the two files agree, in a third of the time
        for path, metadata in zip(paths, undated, strict=True):
            buffer = io.BytesIO()
            made.savefig(buffer, format=path.suffix[1:], dpi=DPI, metadata=metadata)
            write_bytes(path, buffer.getvalue())
    return paths


# --- axes -------------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """How a quantity is called and written."""

    letter: str
    label: str
    kind: Kind


QUANTITIES: Mapping[str, Quantity] = {
    "params": Quantity("N", "parameters N", "count"),
    "tokens": Quantity("D", "training tokens D", "count"),
    "flops": Quantity("C", "training compute C, FLOPs", "flops"),
    "loss": Quantity("L", "held-out loss, nats/token", "loss"),
}
POWER = "$N^*\\propto C^{\\,a}$"  # of which `a` is then said
COMPUTE = "training compute C = 6ND, FLOPs"


def quantity(name: str) -> Quantity:
    """The letter, label and kind of a column; of an unknown one its own name."""
    return QUANTITIES.get(name, Quantity(name, name.replace("_", " "), "count"))


def log_axis(axis: Axis, label: str, kind: Kind) -> None:
    """Make `axis` logarithmic with ticks that are readable over any range, labelled by `kind`."""
    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_major_locator(_LogTicks())
    axis.set_major_formatter(_FORMATTERS[kind]())
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label)


_FORMATTERS: Mapping[Kind, Callable[[], Formatter]] = {
    "count": lambda: FuncFormatter(lambda value, _: human(value)),
    "flops": lambda: LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)),
    "loss": lambda: StrMethodFormatter("{x:.4g}"),
}


def with_room(span: Iterable[float], share: float = 0.05) -> Interval:
    """Limits of a logarithmic axis that leave `share` of the span free at both ends."""
    low, high = span
    room = (high / low) ** share
    return Interval(low / room, high * room)


class _LogTicks(Locator):
    """Round values: decades over wide ranges, 1-2-5 over narrow ones, even steps within one."""

    def __call__(self) -> list[float]:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        decades: NDArray[np.floating[Any]] = 10.0 ** np.arange(
            math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
        )
        tried: list[NDArray[np.floating[Any]]] = [
            decades[:: max(1, math.ceil((len(decades) - 1) / 8))],
            *(np.outer(decades, digits) for digits in ((1, 3), (1, 2, 5), (1, 2, 3, 5, 7))),
            np.asarray(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)),
        ]
        for ticks in tried:
            inside = ticks[(ticks > 0) & (ticks >= low * 0.999) & (ticks <= high * 1.001)]
            if inside.size >= 4:
                break
        return [float(tick) for tick in inside]


# --- colour -----------------------------------------------------------------------------------


class Palette:
    """A colour for each value of a positive quantity, the darker the larger.

    Tokens and compute have the warm colours. Up to MANY levels have colours evenly apart, however
    near their values lie; more are coloured by their logarithm.
    """

    def __init__(self, values: ArrayLike, name: str = "params") -> None:
        self.levels = levels(values)
        self.quantity = quantity(name)
        self.map: Colormap = WARM if name in ("tokens", "flops") else SIZES
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
        self, axes: Axes, also: Sequence[Artist] = (), *, marked: ArrayLike | None = None
    ) -> None:
        """Name the colours above `axes` by a legend with the entries `also`, or by a bar if many.

        `marked` are the values at a bar's ticks.
        """
        handles = list(also)
        if self.few:
            write = scientific if self.quantity.kind == "flops" else human
            handles[:0] = [
                Line2D([], [], color=self(each), marker="o", markersize=4,
                       label=f"{self.quantity.letter} = {write(each)}")
                for each in self.levels
            ]  # fmt: skip
        else:
            bar = figure_of(axes).colorbar(
                ScalarMappable(self.norm, self.map), ax=axes, pad=0.02, aspect=40,
                location="right" if also else "top",
            )  # fmt: skip
            axis = bar.ax.yaxis if also else bar.ax.xaxis
            log_axis(axis, self.quantity.label, self.quantity.kind)
            if marked is not None:
                axis.set_major_locator(FixedLocator(np.asarray(marked, dtype=float).tolist()))
            bar.outline.set_visible(False)
        if handles:
            legend(axes, handles)


def legend(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """The one place of a legend: above the axes, where no curve reaches, in as many columns as fit.

    `handles` are by default those of `entries`.
    """
    shown = entries(axes) if handles is None else handles
    room = 1.25 * figure_of(axes).get_figwidth() * axes.get_position().width  # inches
    letters = [len(str(each.get_label())) for each in shown]
    columns = max(1, len(shown))
    # A column is as wide as its longest entry, its sample and the gap.
    while columns > 1 and room < sum(
        0.44 + 0.073 * max(column) for column in np.array_split(letters, columns)
    ):
        columns -= 1
    axes.legend(
        handles=shown, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns,
        borderaxespad=0, borderpad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def shared_legend(panels: Sequence[Axes]) -> None:
    """One legend for panels that stand side by side: each names a share of what is drawn in any,
    first of all what is in no other."""
    every = {str(each.get_label()): each for axes in panels for each in entries(axes)}
    named = [{str(each.get_label()) for each in entries(axes)} for axes in panels]
    order = sorted(
        every, key=lambda label: np.mean([k for k, some in enumerate(named) if label in some])
    )
    ends = np.linspace(0, len(order), len(panels) + 1).round().astype(int)
    for axes, first, last in zip(panels, ends, ends[1:], strict=False):
        legend(axes, [each for label, each in every.items() if label in order[first:last]])


def entries(axes: Axes) -> list[Artist]:
    """What has a label, but lines that do not enter the panel, whose limits must be set."""
    return [each for each in axes.get_legend_handles_labels()[0] if _enters(each, axes)]


def _enters(each: Artist, axes: Axes) -> bool:
    if not isinstance(each, Line2D):
        return True
    path = each.get_path().transformed(each.get_transform())
    return bool(path.intersects_bbox(axes.bbox, filled=False))


def points(
    axes: Axes, x: ArrayLike, y: ArrayLike, by: ArrayLike, palette: Palette, zorder: float = 3.0
) -> None:
    """One point per run, coloured by the values `by`; smaller when there are many."""
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
