"""On how many processes and machines? An evaluation's images in shards, through joblib.

On the workers of a Dask cluster if ``DASK_SCHEDULER_ADDRESS`` is set (docs/machines.md); else over as many
local processes as a detector's own threads leave cores for, if there are many images; else right here. A
shard's result does not depend on who computed it, to the last bit, as long as the CPUs are of one kind.
"""

from __future__ import annotations

import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TypeVar

import cloudpickle
from joblib import Parallel, cpu_count, delayed, parallel_config

from ..assets import Sample
from ..detector import Detector, DetectorError
from ..errors import ModelCompressionError
from ..fetch import AssetError

SHARD = 32  # images that a process takes at a time, and that are done again if it dies
WORTH_A_PROCESS = 500  # images: to start one takes as long as to evaluate a hundred
PATIENCE = 10  # seconds until a scheduler or its workers count as missing
T = TypeVar("T")
Work = Callable[[Detector, Sequence[Sample]], T]
_one_at_a_time = threading.Lock()  # no detector is made for two threads; its own fill the cores


class ClusterError(ModelCompressionError, RuntimeError):
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
        ClusterError: there is no such cluster.
        AssetError, DetectorError: a file is damaged, or is not there for a worker.
    """
    cuts = [samples[start : start + SHARD] for start in range(0, len(samples), SHARD)]
    with _backend(detector, len(samples)) as travels:
        if travels:
            packed, evaluation = cloudpickle.dumps(detector), uuid.uuid4().hex
            call = partial(_elsewhere, work, clean_up, packed, evaluation)
        else:
            call = partial(work, detector)
        yield from Parallel(return_as="generator", batch_size=1)(delayed(call)(cut) for cut in cuts)


@contextmanager
def _backend(detector: Detector, images: int) -> Iterator[bool]:
    """Tell joblib who works; whether that is another process."""
    processes = min(cpu_count() // detector.threads, images // WORTH_A_PROCESS)
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS", "").strip():
        with _cluster(address):
            yield True
    elif processes > 1:
        with parallel_config("loky", n_jobs=processes):
            yield True
    else:
        with parallel_config("sequential"):
            yield False


@contextmanager
def _cluster(address: str) -> Iterator[None]:
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
    joblib = parallel_config("dask", client=client, wait_for_workers_timeout=PATIENCE)
    try:
        with client, heavy, joblib:
            yield
    except TimeoutError:
        raise ClusterError(f"{address} has no workers: start `dask worker {address}`") from None
    except (AssetError, DetectorError) as error:
        raise type(error)(f"{error} (on a worker, which needs the same files at the same path)") from None


def _elsewhere(
    work: Work[T], clean_up: Callable[[], object], packed: bytes, evaluation: str, cut: Sequence[Sample]
) -> T:
    with _one_at_a_time:
        try:
            return work(_unpacked(packed, evaluation), cut)
        finally:
            clean_up()


@lru_cache(maxsize=1)
def _unpacked(packed: bytes, evaluation: str) -> Detector:
    """Once an evaluation, not once a shard; in the next one the same path may lead to another file."""
    return pickle.loads(packed)
