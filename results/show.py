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

    latest = (rows.assign(campaign="") for rows in (read_rows(ROOT), rows_of(finished_runs())))
    print(report(merge(*latest, first_table(ROOT)["experiment"]), sys.argv[1:]))
    print(
        "results.csv and the READMEs are as they were: `make table` takes these rows in, but for those a "
        "campaign has measured on this machine, which change together (`make publish HW=all`)"
    )


if __name__ == "__main__":
    script(main)
