"""A small dose of ``make torture``, and that it would notice a loss."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torture

from modelcompression.packed.tensors import Half


def test_processes_that_write_at_once_lose_no_run(tmp_path, server) -> None:
    toll = torture.writers(tmp_path, server, processes=2, runs=3)
    assert toll.lost == [] and "local store 6 of 6 complete; server 6 of 6 complete" in toll.remark


def test_a_killed_homework_leaves_no_half_run_and_can_be_run_again(tmp_path) -> None:
    toll = torture.kills(tmp_path, trials=2, experiments=3)
    assert toll.lost == [] and toll.faults == 2


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path) -> None:
    toll = torture.full_disk(tmp_path, times=3)
    assert toll.lost == [] and toll.faults == 10


def test_a_server_that_fails_a_third_of_all_requests_loses_no_run(tmp_path, server) -> None:
    toll = torture.failing_server(tmp_path, server, homeworks=2, runs=1, share=0.33)
    assert toll.lost == [] and toll.faults > 3


def test_forged_packed_checkpoints_break_nothing(tmp_path) -> None:
    toll = torture.forged_files(tmp_path, tensors=50, architectures=20)
    assert toll.lost == [] and toll.faults == toll.guarded == 70


def test_a_network_that_does_not_come_back_is_noticed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **named: object) -> None:
        raise AssertionError("small: correlation 0.10")

    monkeypatch.setattr(torture.round_trip, "require_round_trip", lost)
    says = "yolov5n: AssertionError: small: correlation 0.10"
    assert torture._comes_back(tmp_path, tmp_path, "yolov5n") == says


def test_a_careless_reader_is_noticed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(kind: str, shape: tuple[int, ...], parts: list[bytes], coders: object) -> Half:
        return Half(np.frombuffer(parts[0], "<f2").reshape(shape))

    monkeypatch.setattr(torture.container, "decoded", careless)
    assert torture.forged_files(tmp_path, tensors=300, architectures=0).lost


def test_a_careless_writer_is_noticed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(contents: Mapping[Path, bytes]) -> None:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    monkeypatch.setattr(torture.files, "replace", careless)
    monkeypatch.setattr(torture, "PREPARED", {torture._packed: OSError})
    assert [what for what in torture.full_disk(tmp_path, times=3).lost if what.startswith("small.mcpk")]
