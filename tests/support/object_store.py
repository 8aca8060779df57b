"""A server that speaks the S3 protocol over HTTP, in a process of its own (moto)."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import REPO
from umt_ds.data.shards.storage import as_path


@contextmanager
def s3_server(*buckets: str, module: str = "moto.server") -> Iterator[dict[str, str]]:
    """Start a server with these buckets; gives the environment by which clients of this and other processes find it.

    module: what serves; `tests.support.faulty_s3` fails now and then. Skips the test where moto or s3fs is not
    installed.
    """
    with s3_process(*buckets, module=module) as (environment, _):
        yield environment


@contextmanager
def s3_process(*buckets: str, module: str = "moto.server") -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """The same, with the server's process, for tests that kill it."""
    pytest.importorskip("moto", reason="the S3 server needs moto")
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            _wait_for(port, server)
            s3fs.S3FileSystem.clear_instance_cache()  # one made before would talk to another server
            store = s3fs.S3FileSystem()
            for bucket in buckets:
                store.mkdir(bucket)
            yield environment, server
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")


def upload(folder: Path, url: str) -> Path:
    """Copy the files of a folder to a URL; the place there."""
    there = as_path(url)
    for path in folder.iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    return there
