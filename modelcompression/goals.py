"""What to take for which goal? One rule for the README's advice, for ``recommend`` and for ``confirm``.

A goal is met by what can be shown, not by what is likely: the bound of the loss has to be within the limit,
not its estimate. The bound is one-sided, 95 %, from 1,000 photographs or more, where a model is confirmed;
before that, the lower end of its two-sided 95 % interval stands for it, which is a little stricter.
"""

from __future__ import annotations

import pandas as pd

NOTHING_LOST = 0.01  # more cannot be told apart from nothing, by a thousand photographs
GOALS = [
    *(("size_ratio", NOTHING_LOST), ("size_ratio", 0.03)),
    *(("speedup", NOTHING_LOST), ("speedup", 0.03)),
    *(("both", NOTHING_LOST), ("both", 0.03)),
]  # what to gain, what may be lost: see winner
OPPONENTS = [
    *("Ultralytics export, int8 (OpenVINO)", "Ultralytics export, half (OpenVINO)"),
    *("OpenVINO", "ONNX"),
]  # what a user gets in one line, without this project
FIRST_TABLE = [
    *("PTQ, float16", "Global pruning 10 %", "Local pruning 5 %", "Weight clustering", "ONNX", "OpenVINO"),
]  # the compressed models that the project began with
CONFIRMED = "confirmed_"  # before a metric's name: measured by confirm
DELTA = ["map50_95_delta", "map50_95_delta_lo", "map50_95_delta_hi"]
SPEEDUP = ["speedup", "speedup_lo", "speedup_hi"]
PIPELINE = ["pipeline_speedup", "pipeline_speedup_lo", "pipeline_speedup_hi"]


def is_confirmed(rows: pd.DataFrame) -> pd.Series:
    """Which rows ``confirm`` has looked at."""
    return _column(rows, f"{CONFIRMED}loss_bound").notna()


def loss_limits(rows: pd.DataFrame) -> pd.Series:
    """What each row loses of mAP50-95 at most, as a fraction; NaN where nothing was compared."""
    confirmed = _column(rows, f"{CONFIRMED}loss_bound")
    return confirmed.fillna(-_column(rows, "map50_95_delta_lo"))


def evidence(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows to promise by: only confirmed ones, with their confirmed numbers; all while there is none.

    Args:
        rows: one row an experiment, with the metrics of the MLflow schema as columns.
    """
    known = is_confirmed(rows)
    if not known.any():
        return rows
    rows = rows[known]
    names = [name for name in (*DELTA, *SPEEDUP, *PIPELINE) if f"{CONFIRMED}{name}" in rows]
    return rows.assign(**{name: rows[f"{CONFIRMED}{name}"] for name in names})


def winner(shown: pd.DataFrame, gain: str, loss: float) -> pd.Series | None:
    """The row that gains most among those that lose little for sure; None if there is no such row.

    Args:
        shown: one row an experiment, with the metrics of the MLflow schema as columns.
        gain: ``size_ratio``, ``speedup``, or ``both``: their product.
        loss: how much of mAP50-95 may be lost, as a fraction.
    """
    return _most(shown[loss_limits(shown) <= loss], gain)


def unmet(shown: pd.DataFrame) -> list[tuple[str, float]]:
    """The goals that no row meets."""
    return [goal for goal in GOALS if winner(shown, *goal) is None]


def opponent(shown: pd.DataFrame) -> pd.Series | None:
    """The fastest of what a user gets in one line, without any loss; None if none was measured."""
    fits = shown["experiment"].isin(OPPONENTS) & (loss_limits(shown) <= NOTHING_LOST)
    return _most(shown[fits], "speedup")


def shortlist(shown: pd.DataFrame) -> list[str]:
    """Names of the rows worth confirming: may win a goal, or stand beside the winners.

    By its bound before confirmation hardly anything keeps within a limit, by its estimate too much does. For
    each goal the truth is among the rows that keep within it by their estimate, that gain at least as much as
    what keeps within it for sure, and that no other row beats in both gain and loss.
    """
    names = []
    for gain, loss in GOALS:
        gains, estimates = _gains(shown, gain), _column(shown, "map50_95_delta")
        sure = winner(shown, gain, loss)
        least = -float("inf") if sure is None else gains[sure.name]
        possible = shown[(estimates >= -loss) & (gains >= least)].index
        names += [
            shown.loc[row, "experiment"]
            for row in possible
            if not ((gains[possible] > gains[row]) & (estimates[possible] > estimates[row])).any()
        ]
    beside = [name for name in (*OPPONENTS, *FIRST_TABLE) if name in set(shown["experiment"])]
    return list(dict.fromkeys([*names, *beside]))


def _gains(rows: pd.DataFrame, gain: str) -> pd.Series:
    return rows["size_ratio"] * rows["speedup"] if gain == "both" else rows[gain]


def _most(rows: pd.DataFrame, gain: str) -> pd.Series | None:
    gains = _gains(rows, gain).dropna()
    return None if gains.empty else rows.loc[gains.idxmax()]


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows[name] if name in rows else pd.Series(float("nan"), rows.index)
