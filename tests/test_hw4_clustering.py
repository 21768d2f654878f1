"""hw4_clustering: the study beside the notebook runs by its name alone and compares all ideas."""

import nbformat
import pytest

from modelcompression import ROOT, runner

BYTES = ROOT / "hw4_clustering/bytes.ipynb"


def test_the_study_of_bytes_runs_by_its_name_alone() -> None:
    assert BYTES not in runner.notebooks("hw4_clustering")
    assert runner.notebooks("hw4_clustering/bytes") == [BYTES]


@pytest.mark.nightly
def test_the_study_of_bytes_compares_ideas_in_objects(own_store) -> None:
    document = nbformat.read(runner.execute(BYTES, smoke=True, parameters={"THREADS": 1}), as_version=4)
    text = "\n".join(str(output) for cell in document.cells for output in cell.get("outputs", []))
    for shown in (
        "k-means, error feedback",
        "Deep Compression",
        "grid, steps by sensitivity",
        "same",
        "lost",
        "NNCodec",
        "Of Gaussian noise it saves",
    ):
        assert shown in text
