"""How does a runtime change a network's graph? Operations before and after, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from .sketch import arrow, block, note, paper

WIDTH, HEIGHT, GAP = 1.2, 0.46, 0.25  # of a block, inches
ENDS = {"Parameter": "Input", "Result": "Output"}  # two names of one thing
CONSTANTS = {"Constant", "Const"}
MOVES = ("Reorder", "Transpose")


def fusion(recorded: Sequence[str], executed: Sequence[str], runtime: str) -> Figure:
    """A small chain of operations as it was written down, and as a runtime executes it.

    What is gone or new is coloured; constants are left out.

    Args:
        recorded, executed: types of operations, in order; at most six each.
        runtime: the name of the program that executes.
    """
    recorded, executed = (
        [ENDS.get(x, x) for x in names if x not in CONSTANTS] for names in (recorded, executed)
    )
    columns = max(len(recorded), len(executed))
    figure, axes = paper(columns * (WIDTH + GAP) + 0.3, 2.9)
    gone = [name for name in recorded if name not in executed]
    new = {name for name in executed if name not in recorded}
    rows = (
        (1.85, f"written down: {len(recorded)} operations", recorded, dict.fromkeys(gone, "orange")),
        (0.55, f"executed by {runtime}: {len(executed)}", executed, dict.fromkeys(new, "green")),
    )
    places = []
    for y, title, names, tints in rows:
        note(axes, 0.15, y + HEIGHT + 0.25, title, weight="bold")
        places.append({})
        for column, name in enumerate(names):
            x = 0.15 + column * (WIDTH + GAP)
            places[-1][name] = block(axes, x, y, WIDTH, HEIGHT, name, tints.get(name, "plain"))
            if column:
                arrow(axes, (x - GAP - 0.03, y + HEIGHT / 2), (x + 0.03, y + HEIGHT / 2))
    for name in gone:
        (x, y), (to, below) = places[0][name], places[1]["Convolution"]
        arrow(axes, (x, y - HEIGHT / 2), (to + 0.2, below + HEIGHT / 2), colour="#d55e00")
    note(
        axes, 0.15, 0.22, "orange: computed inside the convolution now; green: added by the runtime", size=10
    )
    return figure


def slimmed(
    before: Mapping[str, int], after: Mapping[str, int], channels: int = 3, outputs: int = 84
) -> Figure:
    """The way of the data through a network as exported and in its lean form, with the operations on it.

    Args:
        before, after: how many operations of each of OpenVINO's types are executed.
        channels: of the input.
        outputs: numbers that the head gives for each anchor: a box and the classes.
    """
    figure, axes = paper(8, 3.6)
    rows = (
        (2.15, "as exported", before, f"floats\n{channels} × H × W", f"{outputs} × anchors"),
        (0.45, "lean", after, f"bytes\nH × W × {channels}", f"anchors × {outputs}"),
    )
    for y, title, counts, start, end in rows:
        moves = sum(counts.get(name, 0) for name in MOVES)
        others = sum(counts.values()) - moves - counts["Convolution"]
        blocks = [
            (0.15, 1.2, start, "plain"),
            (1.65, 1.45, f"{counts['Convolution']}\nconvolutions", "blue"),
            (3.4, 1.35, f"{moves} that only\nmove numbers", "orange"),
            (5.05, 1.2, f"{others} others", "blue"),
            (6.55, 1.3, end, "plain"),
        ]
        blocks = [part for part in blocks if moves or part[3] != "orange"]
        note(axes, 0.15, y + 1.1, f"{title}: {sum(counts.values())} operations are executed", weight="bold")
        for x, width, words, tint in blocks:
            block(axes, x, y, width, 0.8, words, tint)
        for (x, width, *_), (following, *_) in pairwise(blocks):
            arrow(axes, (x + width - 0.03, y + 0.4), (following + 0.03, y + 0.4))
    return figure
