"""A store that does not keep up is asked less often, for ten minutes, by a bounded number of requests of a node."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from umt_ds.data.shards import back_off
from umt_ds.data.shards.back_off import PATIENCE_S, Outage, request_slot
from umt_ds.data.shards.storage import as_path, patiently
from umt_ds.data.shards.store_answers import WrongLengthError, passes, retry_after_s

OBJECT = as_path("memory://bucket/set.tar")
SLOW_DOWN = OSError(
    "An error occurred (SlowDown) when calling the GetObject operation: Please reduce your request rate"
)


@pytest.fixture(autouse=True)
def own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if this test had a node of its own."""
    monkeypatch.setattr(back_off, "temporary_folder", lambda: tmp_path)
    return tmp_path


def answer(code: str, status: int, **headers: str) -> OSError:
    """What s3fs makes of an answer of S3."""
    response: dict[str, Any] = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": {k.replace("_", "-"): v for k, v in headers.items()},
        },
    }
    error = OSError(16, "no")
    error.__cause__ = ClientError(response, "GetObject")  # type: ignore[arg-type]
    return error


def misnamed() -> OSError:
    """What s3fs raises of a bucket's name that cannot be."""
    error = OSError("ParamValidationError: Invalid bucket name")
    error.__cause__ = ParamValidationError(report="Invalid bucket name")
    return error


# ---------------------------------------------------------------- pauses


def test_pauses_are_drawn_up_to_a_bound_that_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    monkeypatch.setattr(back_off._chance, "uniform", lambda low, high: bounds.append(high) or high / 2)
    outage = Outage("x")
    pauses = [outage.next_pause_s(SLOW_DOWN) for _ in range(9)]
    assert bounds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert pauses == [bound / 2 for bound in bounds]


@pytest.mark.parametrize("error", [SLOW_DOWN, ConnectionResetError(104, "reset"), TimeoutError("Read timeout")])
def test_ten_minutes_of_an_outage_are_waited_out_and_not_more(impatient: list[float], error: OSError) -> None:
    def until(enough_s: float) -> str:
        if sum(impatient) < enough_s:
            raise error
        return "served"

    assert patiently(lambda: until(590), of=OBJECT) == "served"
    impatient.clear()
    with pytest.raises(OSError, match=str(error.args[-1])[:10]):
        patiently(lambda: until(10_000), of=OBJECT)
    assert sum(impatient) == pytest.approx(PATIENCE_S)
    assert len(impatient) > 20


def test_requests_of_one_outage_give_up_together(impatient: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next of a hundred requests does not wait for ten minutes more."""
    now = [1000.0]
    monkeypatch.setattr(back_off.time, "monotonic", lambda: now[0])
    first = Outage("x")
    while (pause_s := first.next_pause_s(SLOW_DOWN)) is not None:
        now[0] += pause_s + 1e-6  # as a clock does
    assert now[0] == pytest.approx(1000 + PATIENCE_S)
    assert Outage("y").next_pause_s(SLOW_DOWN) is None
    assert patiently(lambda: "served", of=OBJECT) == "served"
    assert Outage("z").next_pause_s(SLOW_DOWN) is not None, "it serves again: this is another outage"
    now[0] += 1000
    assert Outage("w").next_pause_s(SLOW_DOWN) is not None, "and so is one long after"


def test_a_process_knows_that_one_which_it_forked_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "_waiting_until", mmap.mmap(-1, 8))
    assert not back_off.is_waiting()
    worker = multiprocessing.get_context("fork").Process(target=lambda: Outage("x").next_pause_s(SLOW_DOWN))
    worker.start()
    worker.join()
    assert back_off.is_waiting()
    now = time.monotonic()
    monkeypatch.setattr(back_off.time, "monotonic", lambda: now + 151)
    assert not back_off.is_waiting(), "long after the last try"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (Path("/a/disk"), OSError("out of order")),
        (OBJECT, PermissionError("Forbidden")),
        (OBJECT, WrongLengthError(4, 5)),
    ],
)
def test_what_does_not_pass_is_told_soon(impatient: list[float], path: Path, error: OSError) -> None:
    def refuse() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        patiently(refuse, of=path)
    assert impatient == [0.5, 2.0, 8.0]


def test_the_store_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off._chance, "uniform", lambda low, high: 0.25)
    assert Outage("x").next_pause_s(answer("SlowDown", 503, retry_after="7")) == 7.25
    assert Outage("x").next_pause_s(answer("SlowDown", 503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")) == 0.25
    assert Outage("x").next_pause_s(answer("SlowDown", 503, retry_after="99999")) == pytest.approx(PATIENCE_S)
    assert retry_after_s(OSError("reset")) == 0.0


@pytest.mark.parametrize(
    ("error", "waited_for"),
    [
        (answer("SlowDown", 503), True),
        (answer("429", 429), True),
        (answer("TooManyRequests", 429), True),
        (OSError("429 Client Error: Too Many Requests for url: https://huggingface.co/x"), True),
        (answer("AccessDenied", 403), False),
        (answer("InternalError", 500), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (OSError("Could not connect to the endpoint URL"), True),
        (FileNotFoundError("The specified key does not exist"), False),
        (OSError(22, "The requested range is not satisfiable"), False),
        (OSError(5, "Input/output error", "/a/file/of/a/disk"), False),
        (misnamed(), False),
    ],
)
def test_it_is_known_from_what_a_store_may_recover(error: OSError, waited_for: bool) -> None:
    assert passes(error) == waited_for


def test_a_node_says_so_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    monkeypatch.setattr(back_off.time, "time", lambda: now[0])
    with caplog.at_level("WARNING", logger="umt_ds"):
        for second in (1000.0, 1001.0, 1059.0, 1060.0, 1100.0, 1121.0):
            now[0] = second
            outage = Outage("s3://bucket/x")  # another request, of another process
            outage.next_pause_s(SLOW_DOWN)
            outage.next_pause_s(SLOW_DOWN)
    assert caplog.text.count("the store does not keep up") == 3
    assert "s3://bucket/x was asked for 2 times" in caplog.text
    assert "SlowDown" in caplog.text


def test_one_failure_of_many_requests_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="umt_ds"):
        Outage("x").next_pause_s(SLOW_DOWN)
    assert not caplog.text


# ---------------------------------------------------------------- requests on their way


def test_no_more_requests_than_the_node_has_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "REQUESTS_OF_A_NODE", 2)
    monkeypatch.setattr(back_off, "_LOOKS", 2)
    under_way: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(20):
            with request_slot():
                with lock:
                    under_way.append(1)
                    most.append(len(under_way))
                with lock:
                    under_way.pop()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(most) == 120
    assert max(most) <= 2


def _hold(ready: Any) -> None:
    with request_slot():
        ready.set()
        signal.pause()


def test_a_killed_process_lets_go_of_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "REQUESTS_OF_A_NODE", 1)
    monkeypatch.setattr(back_off, "_LOOKS", 1)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(ready,))
    holder.start()
    try:
        assert ready.wait(timeout=30)
        with monkeypatch.context() as patch:
            patch.setattr(back_off, "_SLOT_WAIT_S", 0.02)
            assert back_off._free_slot() is None, "the other process has it"
        monkeypatch.setattr(back_off, "_without_until_s", 0.0)
        holder.kill()
        holder.join()
        slot = back_off._free_slot()
        assert slot is not None
        os.close(slot)
    finally:
        holder.kill()
        holder.join()


def test_a_request_is_made_without_a_slot_where_there_are_none(own_node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_node / f"umt-requests-{os.getuid()}").touch()  # a file of that name, as a folder that cannot be made
    with request_slot():
        pass
