"""results.csv: which runs count, how the file is written and read, what belongs to which machine."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from modelcompression.errors import ModelCompressionError
from modelcompression.goals import CONFIRMED, DELTA, PIPELINE, SPEEDUP, opponent

BASELINE = "Original model"
REPORT_SET, REPORT_IMAGES = "coco-val", 281
ENOUGH_TO_CONFIRM = 1000  # images

ACCURACY = ["precision", "recall", "map50", "map50_95"]
PAIRED_MS = ["latency_ms", "baseline_latency_ms"]
PIPELINE_MS = ["pipeline_ms", "baseline_pipeline_ms"]
SIZE = ["size_mb", "size_ratio", "sparsity", "bits_per_weight"]
CONFIRMED_IMAGES = f"{CONFIRMED}images"
CONFIRMATION = [
    CONFIRMED_IMAGES,
    *(f"{CONFIRMED}{key}" for key in (*DELTA, "loss_bound", *SPEEDUP, *PIPELINE, *PAIRED_MS, *PIPELINE_MS)),
]
MILLISECONDS = ["latency_ms", "latency_p90_ms", "baseline_latency_ms", *PIPELINE_MS]
MILLISECONDS += [f"{CONFIRMED}{key}" for key in (*PAIRED_MS, *PIPELINE_MS)]
METRICS = ACCURACY + DELTA + [f"coco128_{key}" for key in ACCURACY]
METRICS += ["latency_ms", "latency_p90_ms", "baseline_latency_ms", *SPEEDUP, *PIPELINE_MS, *PIPELINE]
METRICS += SIZE + CONFIRMATION
MACHINE = ["cpu", "isa", "threads"]
FIRST_NUMBERS = [*ACCURACY, "latency_ms", "size_mb", "sparsity"]
COLUMNS = [
    *("experiment", "homework", "network", *METRICS),
    *("runtime", "execution_precision", "cpu", "isa", "threads"),
    *(
        "dataset",
        "images",
        "git_commit",
        "campaign",
        "confirmed_git_commit",
        "versions",
        "finished",
        "run_id",
    ),
]
NUMBERS = [*METRICS, "images"]
TEXTS = [column for column in COLUMNS if column not in NUMBERS]
NEEDED = ["experiment", "homework", *MACHINE, "finished", "map50_95", "latency_ms", "size_mb"]

CSV, FIRST_TABLE = "results/results.csv", "results/original.csv"
FIGURES = {name: f"results/figures/{name}.svg" for name in ("pareto", "forest", "speed")}
GALLERY, GALLERY_LOSS = "results/figures/gallery.jpg", 0.03  # see gallery.py


class ResultsError(ModelCompressionError, RuntimeError):
    """The results cannot be read or written; the message says what to do. Nothing was changed."""


def rows_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, in the columns of results.csv.

    Smoke runs, runs on other images than the report set or on fewer, and incomplete ones do not.

    Args:
        runs: finished runs, as ``modelcompression.tracking.finished_runs`` returns them.
    """
    source = {column: f"tags.{column}" for column in COLUMNS}
    source |= {column: f"metrics.{column}" for column in NUMBERS}
    source |= {"experiment": "experiment", "finished": "end_time", "run_id": "run_id"}
    source["network"] = "params.network"
    rows = pd.DataFrame({column: runs.get(source[column]) for column in COLUMNS}, index=runs.index)
    rows[NUMBERS], rows["network"] = rows[NUMBERS].astype(float), rows["network"].fillna("")
    full = (rows["dataset"] == REPORT_SET) & (rows["images"] >= REPORT_IMAGES)
    rows = rows[full & (runs.get("tags.smoke") != "true")].dropna(subset=NEEDED)
    few = ~(rows[CONFIRMED_IMAGES] >= ENOUGH_TO_CONFIRM)
    rows.loc[few, [*CONFIRMATION, "confirmed_git_commit"]] = float("nan")
    rows = rows.sort_values("finished", kind="stable")
    times = pd.to_datetime(rows["finished"], utc=True)
    return rows.assign(finished=times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def merge(committed: pd.DataFrame, fresh: pd.DataFrame, first: Iterable[str]) -> pd.DataFrame:
    """The union of both: of each experiment on each machine, the run that finished last.

    A run of a campaign (``machine.campaign``) gives way to those of later campaigns only, and a run that was
    confirmed to no copy of itself that was not. A campaign measures everything anew: what its machine had
    measured before it began is gone, what other machines did is not. In the order of the tables: experiments
    of the ``first`` table, then by homework and name.
    """
    filled = [part for part in (committed, fresh) if len(part)] or [committed]
    rows = pd.concat(filled).reindex(columns=COLUMNS)
    rows[TEXTS] = rows[TEXTS].fillna("")
    ranks = {"planned": rows["campaign"] != "", "looked_at": rows[CONFIRMED_IMAGES].notna()}
    rows = rows.assign(**ranks).sort_values(["planned", "finished", "looked_at"], kind="stable")
    rows = rows.drop_duplicates(["experiment", *MACHINE], keep="last", ignore_index=True)
    rows = rows.loc[[index for _, group in rows.groupby(MACHINE) for index in _since_campaign(group)]]
    place = {name: index for index, name in enumerate(first)}
    rank = [place.get(name, len(place)) for name in rows["experiment"]]
    rows = rows.assign(rank=rank).sort_values(["rank", "homework", "experiment", *MACHINE])
    return rows[COLUMNS].reset_index(drop=True)


def _since_campaign(group: pd.DataFrame) -> pd.Index:
    """The rows of one machine, those from before its latest campaign left out."""
    campaign = published_campaign(group)
    began = group.loc[group["campaign"] == campaign, "finished"].min() if campaign else ""
    return group.index[group["finished"] >= began]


def csv_text(rows: pd.DataFrame) -> str:
    """results.csv: six significant digits, milliseconds to three decimals; tables round once, from these."""
    text = rows.astype(object)
    for column in NUMBERS:
        form = "{:.3f}" if column in MILLISECONDS else "{:.6g}"
        text[column] = ["" if pd.isna(value) else form.format(value) for value in rows[column]]
    return text.to_csv(index=False, lineterminator="\n")


def parse(text: str, numbers: list[str]) -> pd.DataFrame:
    """A table from CSV text: the named columns are numbers (empty: NaN), all others strings."""
    raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if not isinstance(raw.index, pd.RangeIndex):  # pandas took the surplus fields for row names
        raise ValueError("a line has more fields than the first one")
    kept = {column: raw[column].replace("", "nan").astype(float) for column in numbers}
    return raw.assign(**kept)


def read_rows(root: Path) -> pd.DataFrame:
    """The rows of the committed results.csv; none if there is no such file yet.

    Raises:
        ResultsError: the file is damaged, for example by an unresolved merge.
    """
    path = root / CSV
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        text = path.read_text(encoding="utf8")
        if text.partition("\n")[0].split(",") != COLUMNS:
            raise ValueError("its first line does not name the expected columns")
        rows = parse(text, NUMBERS)
        blank = (rows[NEEDED].isna() | rows[NEEDED].eq("")).any(axis=1)
        if blank.any():
            raise ValueError(f"row {blank.argmax() + 1} is incomplete")
        return rows
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ResultsError(f"{CSV} is damaged: {reason}; repair it by hand or with git checkout") from None


def first_table(root: Path) -> pd.DataFrame:
    """The team's first table on coco128, as it was published; sparsity as a fraction."""
    text = (root / FIRST_TABLE).read_text(encoding="utf8")
    return parse(text, FIRST_NUMBERS)


def machines(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows by machine; first the published one: with the latest campaign, most experiments, or the latest."""
    groups = [group for _, group in rows.groupby(MACHINE)]
    planned = [max(group.loc[group["campaign"] != "", "finished"], default="") for group in groups]
    rank = [(last, len(g), g["finished"].max()) for last, g in zip(planned, groups, strict=True)]
    order = sorted(range(len(groups)), key=lambda index: rank[index], reverse=True)
    return [groups[index] for index in order]


def published_campaign(group: pd.DataFrame) -> str:
    """The latest campaign among the rows of one machine; empty if there was none."""
    planned = group[group["campaign"] != ""].sort_values("finished")
    return "" if planned.empty else planned["campaign"].iloc[-1]


def of_this_network(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of YOLOv8n: not those of other networks that it is compared with."""
    return rows[rows["network"] == ""]


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an experiment of YOLOv8n, from the published machine, in the order of the rows.

    If there was a campaign on it, that campaign's rows and no others: one commit, one machine. Before the
    first one, what only other machines measured is the latest of theirs, its speed blanked: a column of
    speeds belongs to one CPU.
    """
    rows = of_this_network(rows)
    published = machines(rows)[0]
    if campaign := published_campaign(published):
        return published[published["campaign"] == campaign]
    elsewhere = rows[~rows["experiment"].isin(published["experiment"])].sort_values("finished")
    elsewhere = elsewhere.drop_duplicates("experiment", keep="last")
    speeds = [*MILLISECONDS, *SPEEDUP, *PIPELINE, *(f"{CONFIRMED}{key}" for key in (*SPEEDUP, *PIPELINE))]
    elsewhere = elsewhere.assign(**dict.fromkeys(speeds, float("nan")))
    return pd.concat([published, elsewhere]).sort_index()


def over_opponent(shown: pd.DataFrame) -> tuple[pd.Series, str]:
    """How many times faster than the fastest opponent that loses nothing each row is, and that one's name.

    Both were timed in alternation with the original, so the ratio is that of two ratios: of confirmed ones
    where both are. NaN and an empty name if there is no opponent.

    Args:
        shown: one row an experiment, all of one machine.
    """
    best = opponent(shown)
    if best is None:
        return pd.Series(float("nan"), shown.index), ""
    confirmed = shown[f"{CONFIRMED}speedup"] / best[f"{CONFIRMED}speedup"]
    return confirmed.fillna(shown["speedup"] / best["speedup"]), best["experiment"]


def machine_name(row: pd.Series) -> str:
    """CPU, instruction set and threads of a row, in words."""
    return f"{row['cpu']} ({row['isa']}), threads: {row['threads']}"


def machine_of(group: pd.DataFrame) -> dict[str, str]:
    return group.sort_values("finished").iloc[-1][["cpu", "isa", "threads"]].to_dict()
