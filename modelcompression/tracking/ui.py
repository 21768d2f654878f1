"""MLflow's own pages over the local store."""

from __future__ import annotations

import os
import subprocess
import sys

from .store import Store
from .targets import local_target, resolve_target


def show(port: int) -> None:
    """Become MLflow's server on the loopback interface; Ctrl-C ends it."""
    target = resolve_target()
    if not target.is_local:
        target = local_target()
    Store(target)  # where its artifacts are, should it have moved
    print(f"{target.description}: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", target.uri, "--port", str(port)]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # a dozen processes for nothing
    if os.name == "nt":  # its execv quotes nothing, and returns the prompt
        sys.exit(subprocess.call(command))
    os.execv(sys.executable, command)
