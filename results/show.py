"""The rows of some homeworks on this terminal, runs that no table holds yet included; nothing is written.

python results/show.py hw5_export
"""

from __future__ import annotations

import sys

from aggregate import report
from modelcompression import ROOT
from modelcompression.terminal import script
from rows import first_table, merge, read_rows, rows_of


def main() -> None:
    """Command line: the names of homeworks."""
    from modelcompression.tracking.history import finished_runs  # MLflow takes seconds to import

    rows = merge(read_rows(ROOT), rows_of(finished_runs()), first_table(ROOT)["experiment"])
    print(report(rows, sys.argv[1:]))
    print("results.csv and the READMEs are as they were: `make table` takes these rows in")


if __name__ == "__main__":
    script(main)
