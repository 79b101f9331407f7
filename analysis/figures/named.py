"""Named points, such as published models: each name stands where it hides nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

CLEAR = 4.0  # points of paper that a name stays off other points
NEARER = 2.0  # times as far from a name as its own point, at least, is every other
# Right, left, above, below, as shares of the name's own width and height; farther off it might be
# taken for another point's name.
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))


def name_points(
    axes: Axes,
    models: Iterable[tuple[str, float | None, float | None]],
    avoid: Iterable[tuple[float, float]] = (),
) -> None:
    """Draw a diamond at each (name, x, y) and its name next to it where there is room.

    A name covers neither another name, nor a diamond, nor a point of `avoid`, and no other diamond
    is as near to it; where no side is free the name is left out. Places are chosen when the figure
    is drawn, so that they fit the final layout.
    """
    known = [(name, x, y) for name, x, y in models if x is not None and y is not None]
    for _, x, y in known:
        axes.plot(
            x, y, marker="D", markersize=4.2, linestyle="", color="#444444", clip_on=False,
            markeredgecolor="white", markeredgewidth=0.5, zorder=6,
        )  # fmt: skip
    names = [
        axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=7.2, zorder=7,
            ha="center", va="center",
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )
        for name, x, y in known
    ]  # fmt: skip
    for each in names:
        each.set_in_layout(False)
    axes.add_artist(_Places(names, list(avoid)))


class _Places(Artist):
    """Draws nothing itself: it moves names to their places before they are drawn."""

    def __init__(self, names: list[Annotation], avoid: list[tuple[float, float]]) -> None:
        super().__init__()
        self.names, self.avoid = names, avoid
        self.set_in_layout(False)
        self.set_zorder(-1)

    def draw(self, renderer: RendererBase) -> None:
        axes = self.axes
        assert axes is not None and self.figure is not None
        scale = self.figure.dpi / 72
        own = [tuple(axes.transData.transform(each.xy)) for each in self.names]
        others = [tuple(axes.transData.transform(each)) for each in self.avoid]
        taken = [_around(at, CLEAR * scale) for at in (*own, *others)]
        for name, at in zip(self.names, own, strict=True):
            far = [each for each in own if each != at]
            name.set_visible(True)  # a hidden text has no size
            size = name.get_window_extent(renderer).size
            for right, up in _AROUND:
                offset = (right * (size[0] / 2 + 5 * scale), up * (size[1] / 2 + 4 * scale))
                x, y = at[0] + offset[0], at[1] + offset[1]
                box = Bbox.from_bounds(x - size[0] / 2, y - size[1] / 2, *size)
                inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
                covers = any(box.overlaps(each) for each in taken)
                nearest = all(_distance(box, q) > NEARER * _distance(box, at) for q in far)
                if inside and nearest and not covers:
                    taken.append(box)
                    name.set_position((offset[0] / scale, offset[1] / scale))
                    break
            else:
                name.set_visible(False)


def _around(at: tuple[float, ...], by: float) -> Bbox:
    return Bbox.from_extents(at[0] - by, at[1] - by, at[0] + by, at[1] + by)


def _distance(box: Bbox, point: tuple[float, ...]) -> float:
    """From a point to the nearest edge of a box outside which it lies."""
    x, y = point
    return math.hypot(max(box.x0 - x, x - box.x1, 0.0), max(box.y0 - y, y - box.y1, 0.0))
