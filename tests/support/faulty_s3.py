"""moto's S3 server, but it throttles, resets, stalls and cuts: `python -m tests.support.faulty_s3 -H HOST -p PORT`.

What a request to read meets is a function of (object, range, how often it was asked for): the first TIMES answers fail
in the way that a hash of object and range says, and then it is served. What is written, and HEAD, is served at once.
What has been done so far: GET /faults, one line a fault.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

KINDS = ("503", "429", "reset", "stall", "cut", "none")
TIMES = 2
STALL_S = 1.0

_SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>'
)


class FaultyS3:
    """The WSGI application around moto's."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._asked: Counter[tuple[str, str]] = Counter()
        self._done: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, span = environ["PATH_INFO"], environ.get("HTTP_RANGE", "")
        if path == "/faults":
            start("200 OK", [("Content-Type", "text/plain")])
            return ["\n".join(self._done).encode()]
        if environ["REQUEST_METHOD"] != "GET":
            return self._app(environ, start)
        self._asked[path, span] += 1
        if self._asked[path, span] > TIMES:
            return self._app(environ, start)
        kind = KINDS[zlib.crc32(f"{path} {span}".encode()) % len(KINDS)]
        self._done.append(kind)
        return self._fail(kind, environ, start)

    def _fail(self, kind: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        match kind:
            case "503" | "429":
                status = "503 Slow Down" if kind == "503" else "429 Too Many Requests"
                length = ("Content-Length", str(len(_SLOW_DOWN)))
                start(status, [("Content-Type", "application/xml"), ("Retry-After", "0"), length])
                return [_SLOW_DOWN]
            case "reset":
                environ["werkzeug.socket"].close()
                return []
            case "stall":
                time.sleep(STALL_S)
            case "cut":
                return _half(self._app(environ, start))
        return self._app(environ, start)


def _half(answer: Iterable[bytes]) -> Iterable[bytes]:
    """Fewer bytes than its header says: the connection is closed in the middle."""
    data = b"".join(answer)
    return [data[: len(data) // 2]]


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", "--host")
    parser.add_argument("-p", "--port", type=int)
    given = parser.parse_args()
    server = FaultyS3(DomainDispatcherApplication(create_backend_app))
    run_simple(given.host, given.port, server, threaded=True, request_handler=_Quiet)
