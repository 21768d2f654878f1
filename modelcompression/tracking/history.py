"""What has been measured? Finished runs of the configured target as a table, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from .store import (
    RECORD_ID,
    SERVER_ERRORS,
    STORE_ERRORS,
    SYNCED_TO,
    Store,
    first_line,
    is_finished,
    local_runs,
    patience,
    reason,
    warn,
)
from .targets import Target, TrackingError, local_target, resolve_target

ANY = "*"  # subject


def finished_runs(target: Target | None = None, subject: str | None = None) -> pd.DataFrame:
    """Every finished experiment with one subject, in the order they finished.

    Args:
        target: None: the configured one.
        subject: the name of somebody's own model; ``ANY``; None: YOLOv8n for COCO, as in the tables.

    Where the target is a server, local runs that it does not have yet are included; if it cannot be
    reached, a warning is printed and only local ones are returned.

    Returns:
        Columns ``run_id``, ``experiment``, ``start_time``, ``end_time`` (UTC), and one for each metric,
        parameter and tag: ``metrics.map50``, ``params.bits``, ``tags.cpu``. Numbers are floats, all else
        strings.

    Raises:
        TrackingError: the local store cannot be opened.
    """
    target = target or resolve_target()
    runs = local_runs(target) if target.is_local else _everywhere(target)
    rows = [_row(run) for run in runs if is_finished(run) and _is_about(run, subject)]
    columns = ["run_id", "experiment", "start_time", "end_time"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.sort_values("end_time", kind="stable", ignore_index=True)


def artifacts(run_id: str, folder: Path) -> list[Path]:
    """The files that were logged with a run; those on a server are fetched into ``folder``.

    Raises:
        TrackingError: neither the target nor the local store has the run, or its files are gone.
    """
    for target in dict.fromkeys([resolve_target(), local_target()]):
        store = Store(target)
        try:
            if target.is_local:
                return store.files(store.client.get_run(run_id))
            store._ask(partial(store.client.download_artifacts, run_id, "", str(folder)))
            return sorted(folder.iterdir())
        except SERVER_ERRORS:
            continue
    raise TrackingError(f"the files of run {run_id} are out of reach")


def annotate(run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Add to a finished run what was found out about it later, wherever ``finished_runs`` has read it.

    A local run that the server has already is sent once more by the next sync, for what is new.

    Raises:
        TrackingError: neither the target nor the local store has the run, or it cannot be written.
    """
    failed: Exception | None = None
    for target in dict.fromkeys([resolve_target(), local_target()]):
        if target.is_local and target.database and not target.database.exists():
            continue
        try:
            store = Store(target)
            with nullcontext() if target.is_local else patience(store):
                if run_id in {run.info.run_id for run in store.runs()}:
                    return store.annotate(run_id, metrics, tags)
        except STORE_ERRORS as error:
            failed = error
    why = f": {first_line(failed)}" if failed else ""
    raise TrackingError(f"run {run_id} cannot be added to{why}")


def _is_about(run: Run, subject: str | None) -> bool:
    fits = subject == ANY or run.data.tags.get("subject") == subject
    return fits and MLFLOW_PARENT_RUN_ID in run.data.tags


def _everywhere(server: Target) -> list[Run]:
    local = local_runs(local_target())
    store = Store(server)
    try:
        with patience(store):
            remote = store.runs()
    except SERVER_ERRORS as error:
        warn(f"{server.description} {reason(error)}; only runs of {local_target().description} are read")
        return local
    there = {run.data.tags[RECORD_ID] for run in remote if is_finished(run)}
    return remote + [
        run
        for run in local
        if run.data.tags.get(SYNCED_TO) != server.uri and run.data.tags[RECORD_ID] not in there
    ]


def _row(run: Run) -> dict[str, object]:
    start, end = (pd.to_datetime(t, unit="ms", utc=True) for t in (run.info.start_time, run.info.end_time))
    row = {"run_id": run.info.run_id, "experiment": run.info.run_name, "start_time": start, "end_time": end}
    for kind in ("metrics", "params", "tags"):
        row |= {f"{kind}.{key}": value for key, value in getattr(run.data, kind).items()}
    return row
