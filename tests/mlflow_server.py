"""A real MLflow server with passwords, and a proxy in front of it that fails as often as one likes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from mlflow import MlflowClient

# pragma: allowlist nextline secret
USER, PASSWORD = "admin", "correct-horse/battery"


def environment(address: str, password: str = PASSWORD) -> dict[str, str]:
    """The variables that make a server the target of runs."""
    return {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": password,
    }


def empty_database(folder: Path) -> Path:
    """MLflow's schema, which takes seconds to create."""
    path = folder / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@contextmanager
def running(folder: Path, database: Path) -> Iterator[str]:
    """The address of an ``mlflow server`` that asks for `USER` and `PASSWORD`.

    Args:
        database: an empty one, which is copied.
    """
    shutil.copy(database, folder / "server.db")
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 600\n"  # hashing a password takes longer than any request
    )
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--port", str(port)),
        *("--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"),
    ]
    # pragma: allowlist nextline secret
    own = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests"}
    own["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=os.environ | own, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/health"), 90, lambda: (folder / "log").read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=2).ok
    return False


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.2)


FAULTS = ["500", "503", "429", "reset", "silence"]


@contextmanager
def faulty(server: str, share: float, seed: int, silence: float) -> Iterator[tuple[str, Counter]]:
    """A proxy's address, and what it has done so far: requests under "", faults under their names.

    Args:
        share: of all requests that fail, half of these after the server has carried them out.
        silence: seconds after which a connection without an answer is closed.
    """
    generator, done, lock = random.Random(seed), Counter(), threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                is_faulty, is_late = generator.random() < share, generator.random() < 0.5
                fault = generator.choices(FAULTS, [4, 4, 4, 4, 1])[0] if is_faulty else ""
                done.update([fault])
            if is_late or not fault:
                answer = requests.request(
                    self.command, server + self.path, data=body, headers=dict(self.headers), timeout=60
                )
            if fault == "silence":
                time.sleep(silence)
            if fault in ("silence", "reset"):
                self.close_connection = True
            elif fault:
                self._send(int(fault), b"{}", {"Retry-After": "3600"} if fault == "429" else {})
            else:
                kind = answer.headers.get("Content-Type", "application/json")
                self._send(answer.status_code, answer.content, {"Content-Type": kind})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items() | {("Content-Length", str(len(body)))}:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that has given up

    proxy = Server(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", done
    finally:
        proxy.shutdown()
        proxy.server_close()
