"""What to take for which goal? One rule for the README's advice and for ``recommend``."""

from __future__ import annotations

import pandas as pd

GOALS = [
    *(("size_ratio", 0.0), ("size_ratio", 0.01), ("size_ratio", 0.03)),
    *(("speedup", 0.0), ("speedup", 0.01), ("speedup", 0.03)),
    ("both", 0.03),
]  # what to gain, what may be lost: see winner
NOISE = 0.005  # a smaller loss, its interval reaching 0, counts as none


def winner(shown: pd.DataFrame, gain: str, loss: float) -> pd.Series | None:
    """The row that gains most among those that lose little; None if there is no such row.

    Args:
        shown: one row an experiment, with the metrics of the MLflow schema as columns.
        gain: ``size_ratio``, ``speedup``, or ``both``: their product.
        loss: how much of mAP50-95 may be lost, as a fraction; 0: nothing, as far as these images can tell,
            so the estimate is at most `NOISE` and its interval reaches 0.
    """
    fits = shown["map50_95_delta"] >= -(loss or NOISE)
    if not loss:
        fits &= shown["map50_95_delta_hi"] >= 0
    gains = shown["size_ratio"] * shown["speedup"] if gain == "both" else shown[gain]
    gains = gains[fits].dropna()
    return None if gains.empty else shown.loc[gains.idxmax()]
