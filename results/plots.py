"""The figures, as SVG text: made from results.csv alone, the same bytes each time.

On a white card, so that they read the same on light and dark pages, and as wide as a README's column
(800 px). Text stays text: readers of screens and searches find it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from modelcompression.goals import DELTA, SPEEDUP
from rows import BASELINE, FIGURES, headline, machine_name, machines, of_this_network
from tables import number

# Okabe & Ito, told apart by everyone; a marker each, for print. hw1 takes the first, hw2 the second …
PALETTE = [
    *(("#000000", "*"), ("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "D"), ("#cc79a7", "^")),
    *(("#e69f00", "P"), ("#56b4e9", "X")),
]
SPEED_NOISE = 1.03  # ratios closer than this are the same speed
FLOOR = -15  # %: what loses more stands at the edge with its value, or it would squeeze all others
SIZE_TICKS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24]
SPEED_TICKS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24]

WIDTH, LINE, MARGIN = 8.33, 0.205, 0.15  # inches
LONGEST_NAME, LONGEST_IN_KEY = 48, 66  # characters
LOWER_LEFT = 5, 20  # points that numbers stay away from a plot's corner: below are the values of `_below`
SETTINGS = {"svg.hashsalt": "modelcompression", "svg.fonttype": "none", "text.parse_math": False}
SETTINGS |= {"font.size": 9, "axes.grid": True, "grid.color": "#e4e4e4", "axes.edgecolor": "#888888"}
# A short list, since the file repeats it with every word.
SETTINGS |= {"axes.axisbelow": True, "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}


def figures(rows: pd.DataFrame) -> dict[str, str]:
    """File name → SVG of every figure.

    Args:
        rows: results.csv; at least one row.
    """
    shown = headline(rows)
    machine = machine_name(machines(rows)[0].iloc[0])
    drawn = {"pareto": pareto(shown, machine), "forest": forest(shown), "speed": speed(rows)}
    return {FIGURES[name]: svg for name, svg in drawn.items()}


def pareto(shown: pd.DataFrame, machine: str) -> str:
    """SVG: change of mAP50-95 against size (left) and against speed (right), one point an experiment.

    Numbers mark the front: no other row is smaller, faster and more accurate at once. Steps join the
    most accurate files up to each size: what a byte buys. The key below names the front.

    Args:
        shown: one row an experiment, see ``rows.headline``.
        machine: the CPU that the speeds were measured on.
    """
    points = _points(shown)
    key = points.dropna(subset=["number"]).sort_values("number")
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 4.75 + LINE * (len(key) + 1)))
        title = "What it costs, what it gains: accuracy against size and speed"
        _write(figure, WIDTH / 2, 0.2, title, ha="center", weight="bold", size=11)
        _legend(figure, points["homework"], 0.5)
        left, right = (_place(figure, x, 0.75, width, 3.1) for x, width in ((0.7, 4.15), (5.05, 3.1)))
        inside = points[points["delta"] >= FLOOR]
        room = 1.2 if len(inside) == len(points) else 2.4  # for the values of `_below`
        limits = min(-2, inside["delta"].min()) - room, max(1, inside["high"].max()) + 0.3
        _logarithmic(left, points["size_mb"], SIZE_TICKS, at_least=(1, 6))
        _logarithmic(right, points["speedup"], SPEED_TICKS, at_least=(0.9, 1.5))
        for axes, column in ((left, "size_mb"), (right, "speedup")):
            axes.set(ylim=limits)
            axes.axhline(0, color="#555555", linewidth=0.8, zorder=1)
            _scatter(axes, points.dropna(subset=[column]), column)
        best = inside.sort_values("size_mb")
        best = best[best["delta"] == best["delta"].cummax()]
        left.step(best["size_mb"], best["delta"], where="post", color="#888888", linewidth=1, zorder=1)
        left.set_xlabel("← size of the shipped files, MB (line: the best up to a size)")
        left.set_ylabel("change of mAP50-95, % (with 95 % interval)")
        right.set(xlabel=f"times faster than the original →\non {machine}")
        right.tick_params(labelleft=False)
        _key(figure, key, 4.72)
        return _svg(figure)


def forest(shown: pd.DataFrame) -> str:
    """SVG: the change of mAP50-95 of every experiment with its 95 % interval, by homework."""
    measured = shown.dropna(subset=DELTA)
    groups = {}
    for homework, rows in measured.groupby("homework"):
        groups[homework] = [
            _Line(_brief(row["experiment"]), homework, *(100 * row[DELTA]), f"{row['size_mb']:.2f} MB")
            for _, row in rows.iterrows()
        ]
    title = "Change of mAP50-95 against the original model, % (with 95 % interval)"
    return _intervals(groups, 0, title, "+z.1f")


def speed(rows: pd.DataFrame) -> str:
    """SVG: how many times faster every experiment is, with its 95 % interval, machine by machine.

    What runs by the original's runtime, and as fast, is one line: a smaller file alone gains no time.
    """
    groups = {}
    runtime = rows.loc[rows["experiment"] == BASELINE, "runtime"].max()
    for group in machines(of_this_network(rows)):
        measured = group.dropna(subset=SPEEDUP).sort_values("speedup", ascending=False)
        as_fast = measured["speedup"].between(1 / SPEED_NOISE, SPEED_NOISE)
        alike = measured["runtime"].eq(runtime) & as_fast
        lines = [
            _Line(_brief(row["experiment"]), row["homework"], *row[SPEEDUP], _milliseconds(row))
            for _, row in measured[~alike].iterrows()
        ]
        if alike.any():
            ratios, ms = measured.loc[alike, "speedup"], measured[alike].median(numeric_only=True)
            name = f"{alike.sum()} run as the original, by {runtime} (range)"
            lines.append(_Line(name, None, ratios.median(), ratios.min(), ratios.max(), _milliseconds(ms)))
        if lines:
            groups[machine_name(group.iloc[0])] = lines
    return _intervals(groups, 1, "Times faster than the original model (with 95 % interval)", ".2f")


def _milliseconds(row: pd.Series) -> str:
    """Beside those of the original timed with it: a machine's speed is another one every day."""
    return f"{row['baseline_latency_ms']:.1f} → {row['latency_ms']:.1f} ms"


def style(homework: str) -> tuple[str, str]:
    """Colour and marker of a homework, the same in all figures: by the number in its name."""
    found = re.match(r"hw(\d+)", homework)
    return PALETTE[(int(found[1]) - 1) % len(PALETTE) if found else -1]


# Accuracy, size, speed


def _points(shown: pd.DataFrame) -> pd.DataFrame:
    """What ``pareto`` draws: the original at 0 % and 1×, changes in percent, numbers of the front."""
    reference = shown["experiment"].eq(BASELINE)
    delta, low, high = (100 * shown[column].mask(reference, 0) for column in DELTA)
    speedup = shown["speedup"].mask(reference & shown["latency_ms"].notna(), 1)
    points = shown.assign(delta=delta, low=low, high=high, speedup=speedup).dropna(subset=["delta"])
    gains = np.column_stack([points["delta"], -points["size_mb"]])
    speeds = points["speedup"].fillna(0).to_numpy()
    beaten = [
        (
            (gains >= gain).all(axis=1)
            & (speeds * SPEED_NOISE >= own)
            & ((gains > gain).any(axis=1) | (speeds > own * SPEED_NOISE))
        ).any()
        for gain, own in zip(gains, speeds, strict=True)
    ]
    front = points["delta"].ge(FLOOR) & ~np.array(beaten, bool)
    return points.assign(number=points["size_mb"].where(front).rank(method="first"))


def _scatter(axes: Axes, points: pd.DataFrame, column: str) -> None:
    """Points with their intervals; the front large, numbered by size; what lies below, as arrows."""
    inside = points[points["delta"] >= FLOOR]
    for homework, group in inside.groupby("homework"):
        colour, marker = style(homework)
        large = group["number"].notna() | group["experiment"].eq(BASELINE)
        front, rest = group[large], group[~large]
        axes.vlines(front[column], front["low"], front["high"], color=colour, alpha=0.5, linewidth=1.2)
        axes.scatter(rest[column], rest["delta"], 26, colour, marker, alpha=0.75, edgecolors="none", zorder=3)
        size = 130 if marker == "*" else 75
        axes.scatter(front[column], front["delta"], size, colour, marker, edgecolors="white", zorder=4)
    front = inside.dropna(subset=["number"]).sort_values("number")
    places = front.set_index("number")[[column, "delta"]]
    _numbers(axes, places, inside[[column, "delta"]].to_numpy())
    _below(axes, points[points["delta"] < FLOOR].sort_values(column), column)


def _numbers(axes: Axes, front: pd.DataFrame, points: np.ndarray) -> None:
    """Numbers beside the points of the front, wherever most room is.

    Args:
        front: number → x and y, in data coordinates.
        points: (m, 2), everything to keep away from.
    """
    to_points = 72 / axes.figure.dpi
    taken = to_points * axes.transData.transform(points)
    box = to_points * axes.get_window_extent().get_points()
    angles = np.pi / 8 * np.arange(16)
    ring = 12 * np.column_stack([1.2 * np.cos(angles), np.sin(angles)])  # a number is wider than it is high
    for label, point in zip(front.index, front.to_numpy(), strict=True):
        places = to_points * axes.transData.transform(point) + ring
        room = np.linalg.norm(places[:, None] - taken, axis=2).min(axis=1)
        room[((places < box[0] + LOWER_LEFT) | (places > box[1] - 5)).any(axis=1)] = -1
        chosen = room.round(3).argmax()
        taken = np.vstack([taken, places[chosen]])
        axes.annotate(
            f"{label:.0f}", point, ring[chosen], "data", "offset points",
            ha="center", va="center", weight="bold", zorder=6,
        )  # fmt: skip


def _below(axes: Axes, points: pd.DataFrame, column: str) -> None:
    """Arrows at the lower edge; neighbours share one text with their values."""
    bottom = axes.get_ylim()[0]
    groups: list[list[tuple[float, pd.Series]]] = []
    for _, row in points.iterrows():
        x = axes.transData.transform((row[column], 0))[0] * 72 / axes.figure.dpi
        groups.append([(x, row)])
        while len(groups) > 1 and _overlap(*groups[-2:]):
            groups[-2:] = [groups[-2] + groups[-1]]
        axes.plot(row[column], bottom, marker=7, markersize=7, color=style(row["homework"])[0], clip_on=False)
    for group in groups:
        place = np.exp(np.mean(np.log([row[column] for _, row in group])))
        values = ", ".join(number(value, ".0f") for value in sorted(row["delta"] for _, row in group))
        where = axes.transAxes.inverted().transform(axes.transData.transform((place, bottom)))[0]
        align, shift = ("left", 8) if where < 0.25 else ("right", -8) if where > 0.75 else ("center", 0)
        axes.annotate(
            f"{values} %", (place, bottom), (shift, 9), "data", "offset points", ha=align, color="#444444"
        )


def _overlap(left: list[tuple[float, pd.Series]], right: list[tuple[float, pd.Series]]) -> bool:
    """Would the texts of two groups, each in the middle of its points, run into each other?"""
    room = np.mean([x for x, _ in right]) - np.mean([x for x, _ in left])
    return room < 12 * (len(left) + len(right)) + 20  # points: half of each text's width


def _key(figure: Figure, front: pd.DataFrame, top: float) -> None:
    """A line for each point of the front: number, name, accuracy, size, speed."""
    columns = {0.55: "left", 5.95: "right", 6.95: "right", 7.95: "right"}
    head = ["The front: nothing else is smaller, faster and more accurate at once", "Δ, %", "MB", "× faster"]
    for x, text in zip(columns, head, strict=True):
        _write(figure, x, top, text, ha=columns[x], color="#555555")
    for _, row in front.iterrows():
        y = top + LINE * row["number"]
        cells = [_brief(row["experiment"], LONGEST_IN_KEY), number(row["delta"], "+z.1f")]
        cells += [number(row[column], ".2f") for column in ("size_mb", "speedup")]
        for x, text in zip(columns, cells, strict=True):
            _write(figure, x, y, text, ha=columns[x])
        _write(figure, 0.2, y, f"{row['number']:.0f}", ha="center", weight="bold")
        colour, marker = style(row["homework"])
        place = [0.4 / WIDTH], [1 - y / figure.get_figheight()]
        figure.add_artist(Line2D(*place, color=colour, marker=marker, markersize=6))


def _legend(figure: Figure, homeworks: Iterable[str], y: float) -> None:
    """Colours and markers of the homeworks, in one line ``y`` inches from the top."""
    handles = []
    for name in sorted({homework.partition("/")[0] for homework in homeworks}):
        colour, marker = style(name)
        size = 9 if marker == "*" else 6
        handles.append(Line2D([], [], linestyle="", color=colour, marker=marker, markersize=size, label=name))
    figure.legend(
        handles=handles, ncols=min(5, len(handles)), loc="center", frameon=False, handletextpad=0.2,
        columnspacing=1.4, bbox_to_anchor=(0.5, 1 - y / figure.get_figheight()),
    )  # fmt: skip


# One line an experiment, with an interval


@dataclass(frozen=True)
class _Line:
    name: str
    homework: str | None
    value: float
    low: float
    high: float
    remark: str

    def written(self, form: str) -> str:
        value, low, high = (number(x, form) for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def _intervals(groups: dict[str, list[_Line]], reference: float, title: str, form: str) -> str:
    """SVG: groups of lines; of each the name, the interval drawn, the interval written, a remark.

    Args:
        groups: heading → its lines.
        reference: 0 for differences, 1 for ratios, which get a logarithmic axis.
        form: format of one number.
    """
    entries = [entry for heading, group in groups.items() for entry in (heading, *group)]
    lines = [line for group in groups.values() for line in group]
    left = 2 * MARGIN + _inches(line.name for line in lines)
    written, remarks = _inches(line.written(form) for line in lines), _inches(line.remark for line in lines)
    right = written + remarks + 4 * MARGIN
    height, top = LINE * max(1, len(entries)), 0.95
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, top + height + 0.35))
        axes = _place(figure, left, top, WIDTH - left - right, height)
        _scale(axes, lines, reference)
        axes.set(ylim=(height / LINE - 0.5, -0.5), yticks=[])
        axes.tick_params(top=True, labeltop=True, length=2)
        axes.axvline(reference, color="#555555", linewidth=0.8, zorder=1)
        _write(figure, WIDTH / 2, 0.2, title, ha="center", weight="bold", size=11)
        _legend(figure, {line.homework for line in lines if line.homework}, 0.5)
        for row, entry in enumerate(entries):
            y = top + LINE * (row + 0.5)
            if isinstance(entry, str):
                axes.axhline(row, color="#e4e4e4", zorder=0)
                _write(figure, MARGIN, y, entry, weight="bold", backgroundcolor="white")
                continue
            _draw(axes, row, entry, reference)
            _write(figure, left - MARGIN, y, entry.name, ha="right")
            _write(figure, WIDTH - remarks - 2 * MARGIN, y, entry.written(form), ha="right")
            _write(figure, WIDTH - MARGIN, y, entry.remark, ha="right", color="#555555")
        return _svg(figure)


def _draw(axes: Axes, row: int, line: _Line, reference: float) -> None:
    colour, marker = style(line.homework) if line.homework else ("#777777", "|")
    if reference == 0 and line.value < FLOOR:
        axes.plot(axes.get_xlim()[0], row, marker=4, markersize=7, color=colour, clip_on=False)
        return
    axes.plot([line.low, line.high], [row, row], color=colour, linewidth=1.8, alpha=0.55)
    axes.plot(line.value, row, marker=marker, color=colour, markersize=5.5, zorder=4)


def _scale(axes: Axes, lines: list[_Line], reference: float) -> None:
    if reference:
        _logarithmic(axes, [[line.low, line.high] for line in lines], SPEED_TICKS, at_least=(0.9, 1.5))
        return
    inside = [line for line in lines if line.value >= FLOOR]
    low, high = min([-2, *(line.low for line in inside)]), max([1, *(line.high for line in inside)])
    axes.set_xlim(low - 1, high + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


# Common


def _place(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the upper left corner."""
    full = figure.get_figheight()
    axes = figure.add_axes((x / WIDTH, 1 - (y + height) / full, width / WIDTH, height / full))
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _write(figure: Figure, x: float, y: float, text: str, **font: object) -> None:
    """Text at a place given in inches from the upper left corner."""
    figure.text(x / WIDTH, 1 - y / figure.get_figheight(), text, va="center", **font)


def _logarithmic(axes: Axes, values: ArrayLike, ticks: list[float], at_least: tuple[float, float]) -> None:
    """A logarithmic x axis with plain numbers, around all values and the two of ``at_least``."""
    covered = [*at_least, *np.ravel(values)]
    low, high = np.nanmin(covered) / 1.15, np.nanmax(covered) * 1.15
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks(inside, [f"{tick:g}" for tick in inside])
    axes.xaxis.set_minor_locator(NullLocator())


def _inches(texts: Iterable[str]) -> float:
    """Width of the widest text."""
    widths = [TextPath((0, 0), text, SETTINGS["font.size"]).get_extents().width for text in texts]
    return max(widths, default=0) / 72


def _brief(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that leaves room for the figure beside it; names of one family differ at their ends."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half].rstrip()}…{name[-half:].lstrip()}"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
