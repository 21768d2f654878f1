"""Where do runs go, and what has been measured? MLflow: DagsHub, any server, or SQLite in the repository.

* :class:`.tracker.Tracker`: write the runs of one notebook;
* :func:`.history.finished_runs`: read all of them as a table;
* :func:`.sync.sync`: send local runs to the server.
"""
