"""On how many processes and machines? An evaluation's images in shards, through Dask or joblib.

On the workers of a Dask cluster if ``DASK_SCHEDULER_ADDRESS`` is set (docs/machines.md); else over local
processes, one for every 500 images, but no more than a detector's own threads leave cores for; else here.
A shard's result does not depend on who computed it, to the last bit, as long as the CPUs are of one kind.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from typing import Any, TypeVar

import cloudpickle
from joblib import Parallel, cpu_count, delayed

from ..assets import Sample
from ..detector import Detector, DetectorError, reason_of
from ..errors import ModelCompressionError
from ..fetch import AssetError

SHARD = 32  # images that a process takes at a time, and that are done again if a Dask worker dies
WORTH_A_PROCESS = 500  # images: to start one takes as long as to evaluate a hundred
PATIENCE = 10  # seconds until a scheduler or its workers count as missing
T = TypeVar("T")
Cut = Sequence[Sample]
Work = Callable[[Detector, Cut], T]
_one_at_a_time = threading.Lock()  # no detector is made for two threads; its own fill the cores


class ShardError(ModelCompressionError, RuntimeError):
    """Photographs cannot be divided among processes or machines; the message says what to do."""


class ClusterError(ShardError):
    """The Dask cluster that ``DASK_SCHEDULER_ADDRESS`` names cannot be used; the message says what to do."""


def spread(
    work: Work[T], detector: Detector, samples: Sequence[Sample], clean_up: Callable[[], object]
) -> Iterator[T]:
    """Call ``work`` with a detector and a shard of the samples, again and again; results in order.

    A shard whose worker dies in a cluster is given to another worker.

    Args:
        work: a function of a module, or a partial of one: it travels to other processes by name.
        clean_up: likewise; what such a process calls after each shard.

    Raises:
        ClusterError: there is no such cluster, or it has lost its workers or its scheduler.
        ShardError: a local process died.
        AssetError, DetectorError: a file is damaged, or is not there for a worker.
    """
    cuts = [samples[start : start + SHARD] for start in range(0, len(samples), SHARD)]
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS", "").strip():
        yield from _in_cluster(address, _travelling(work, detector, clean_up), cuts)
    elif (processes := _processes(detector, len(samples))) > 1:
        call = delayed(_travelling(work, detector, clean_up))
        try:
            yield from Parallel(processes, return_as="generator", batch_size=1)(call(cut) for cut in cuts)
        except BrokenProcessPool:
            raise ShardError(
                f"one of {processes} processes died, perhaps for lack of memory: take more THREADS, "
                "which makes fewer processes"
            ) from None
    else:
        yield from (work(detector, cut) for cut in cuts)


def _processes(detector: Detector, images: int) -> int:
    """As many as leave each its threads, and have enough to do."""
    return max(1, min(cpu_count() // detector.threads, images // WORTH_A_PROCESS))


def _in_cluster(address: str, call: Callable[[Cut], T], cuts: Sequence[Cut]) -> Iterator[T]:
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise ClusterError(
            "DASK_SCHEDULER_ADDRESS is set, but Dask is not installed: pip install distributed, or unset it"
        ) from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError):
        raise ClusterError(
            f"no Dask scheduler answers at {address}: start `dask scheduler`, or unset DASK_SCHEDULER_ADDRESS"
        ) from None
    # Each shard brings the detector along, up to 13 MB: nothing is lost with a worker that held it.
    heavy = dask.config.set({"distributed.admin.large-graph-warning-threshold": "100MB"})
    with client, heavy:
        _require_workers(client, address)
        for future in client.map(call, cuts, pure=False):
            yield _received(future, client, address)


def _received(future: Any, client: Any, address: str) -> Any:
    """However long a shard takes, as long as there is somebody to compute it; Dask itself waits forever."""
    from distributed import CancelledError, KilledWorker

    while True:
        try:
            return future.result(timeout=PATIENCE)
        except (OSError, CancelledError) as error:  # among them that it takes long
            if future.status == "error":
                raise _failed(error, address) from error
            if not isinstance(error, TimeoutError):
                raise _gone(address) from None
            _require_workers(client, address)
        except (AssetError, DetectorError) as error:
            what = "on a worker, which needs the same files at the same path"
            raise type(error)(f"{error} ({what})") from None
        except KilledWorker as error:
            raise ClusterError(
                f"{address}: one worker after another died over the same images, the last of them "
                f"{error.last_worker.address}: look at what it printed, and at its memory"
            ) from None
        except Exception as error:
            raise _failed(error, address) from error


def _require_workers(client: Any, address: str) -> None:
    """Wait a while for somebody who computes; a worker whose memory is full is paused by Dask."""
    end = time.monotonic() + PATIENCE
    while not any(map(_computes, workers := _workers(client, address))):
        if time.monotonic() > end:
            raise ClusterError(
                f"the workers of {address} are paused: give them more memory"
                if workers
                else f"{address} has no workers: start `dask worker {address}`"
            )
        time.sleep(0.1)


def _workers(client: Any, address: str) -> list[dict[str, Any]]:
    if client.status != "running":
        raise _gone(address)
    try:
        found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=PATIENCE)
    except OSError:  # among them that it takes long
        raise _gone(address) from None
    return list(found["workers"].values())


def _computes(worker: dict[str, Any]) -> bool:
    executing = worker["metrics"].get("task_counts", {}).get("executing", 0)
    return worker["status"] == "running" or executing > 0


def _gone(address: str) -> ClusterError:
    return ClusterError(f"the scheduler at {address} does not answer: start it, and this again")


def _failed(error: Exception, address: str) -> ClusterError:
    asked = "is its commit this one, are its packages?"
    return ClusterError(f"a worker of {address} failed; {asked} {reason_of(error)}")


def _travelling(work: Work[T], detector: Detector, clean_up: Callable[[], object]) -> Callable[[Cut], T]:
    return partial(_elsewhere, cloudpickle.dumps((work, detector, clean_up)), uuid.uuid4().hex)


def _elsewhere(packed: bytes, evaluation: str, cut: Cut) -> Any:
    with _one_at_a_time:
        work, detector, clean_up = _unpacked(packed, evaluation)
        try:
            return work(detector, cut)
        finally:
            clean_up()


@lru_cache(maxsize=1)
def _unpacked(packed: bytes, evaluation: str) -> tuple[Work, Detector, Callable[[], object]]:
    """Once an evaluation, not once a shard; in the next one the same path may lead to another file.

    Here and not where a worker reads its messages: the libraries take seconds to load, and it has to answer.
    """
    return pickle.loads(packed)
