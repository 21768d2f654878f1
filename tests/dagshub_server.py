"""What DagsHub's client and MLflow see of DagsHub: a sign-in, users, and a repository's tracking server."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import requests
from mlflow_server import PASSWORD, USER

from modelcompression import REPOSITORY

PREFIX = f"/{REPOSITORY}.mlflow"


@dataclass
class DagsHub:
    """One loopback DagsHub, and what it has been asked for.

    Attributes:
        tokens: which it accepts.
        issues: what the next sign-in brings; None: the user refuses.
        lifetime: of a token that it issues.
        refuses: requests to the tracking server whose path contains this text are answered 403.
    """

    mlflow: str
    address: str = ""
    tokens: set[str] = field(default_factory=set)
    issues: str | None = "fresh"
    lifetime: timedelta = timedelta(hours=1)
    refuses: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def dagshub(mlflow: str) -> Iterator[DagsHub]:
    """A DagsHub in front of an MLflow server."""
    hub = DagsHub(mlflow)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.asked.append(f"{self.command} {self.path}")
            if self.path.startswith(PREFIX):
                return self._track(body)
            if self.path == "/login/oauth/middleman":
                return self._send(200, "a code") if hub.issues else self._send(403, "refused")
            if self.path == "/login/oauth/access_token":
                assert parse_qs(body.decode())["code"] == ["a code"]
                hub.tokens.add(hub.issues)
                expiry = (datetime.now(UTC) + hub.lifetime).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                token = {"access_token": hub.issues, "expiry": expiry, "token_type": "bearer"}
                return self._send(200, token)
            known = self.headers.get("Authorization", "").removeprefix("Bearer ") in hub.tokens
            if self.path == "/api/v1/user" and known:
                return self._send(200, {"login": "asya", "username": "asya"})
            return self._send(401, {"message": "invalid token"})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def _track(self, body: bytes) -> None:
            pairs = (f"{token}:{token}".encode() for token in hub.tokens)
            accepted = {f"Basic {b64encode(pair).decode()}" for pair in pairs}
            if self.headers.get("Authorization") not in accepted:
                return self._send(401, b"invalid token")  # MLflow reads the status of a text only
            if hub.refuses and hub.refuses in self.path:
                return self._send(403, {"error_code": "PERMISSION_DENIED", "message": "no space is left"})
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("authorization", "host")}
            answer = requests.request(
                self.command, hub.mlflow + self.path.removeprefix(PREFIX), data=body, headers=kept,
                auth=(USER, PASSWORD), timeout=60,
            )  # fmt: skip
            self._send(answer.status_code, answer.content)

        def _send(self, status: int, content: object) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
