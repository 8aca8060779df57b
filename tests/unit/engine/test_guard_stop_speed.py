"""What the loop leans on: the finite guard, the wish to stop, the stopwatch. One rank each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import call, environment, run_ranks
from umt_ds.distributed.world import World
from umt_ds.engine import speed
from umt_ds.engine.guard import FiniteGuard
from umt_ds.engine.speed import DeviceTimer, Recorder, Stopwatch, peak_flops, peak_memory_gib, span
from umt_ds.engine.step_stats import GlobalStepStats, RankTimes
from umt_ds.engine.stop import SIGNALS, Stop
from umt_ds.errors import EXIT_FAILED, EXIT_STOPPED, MachineError, NonFiniteError

CPU = torch.device("cpu")
ALONE = World.alone()
SECOND = World(1, 2, 1, "127.0.0.1", 1, "env")
NAN, INF = float("nan"), float("inf")

# ---------------------------------------------------------------- guard


def guard(*, fp16: bool = False, max_skipped: int = 0, failed_before: Collection[int] = ()) -> FiniteGuard:
    return FiniteGuard(draws_per_step=32, overflow_is_normal=fp16, max_skipped=max_skipped, failed_before=failed_before)


def heard(step: int, *, loss: float = 1.0, norm: float = 1.0, skipped: bool = False) -> GlobalStepStats:
    """0-based step `step`, as all ranks saw it."""
    return GlobalStepStats(
        step=step + 1, losses={"loss": loss}, grad_norm=norm, skipped=skipped, digest=0, mask_digest=0, substituted=0,
        wants_stop=False, wrote_snapshot=False, times=RankTimes((0.0,), (0.0,)),
    )  # fmt: skip


def test_finite_steps_pass() -> None:
    watching = guard()
    for step in range(5):
        watching.check(heard(step))


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (-INF, 1.0), (1.0, NAN), (1.0, INF)])
def test_a_bad_step_is_named_and_the_job_goes_on_from_its_last_checkpoint(loss: float, norm: float) -> None:
    watching = guard(failed_before=[3])
    watching.check(heard(6))
    with pytest.raises(NonFiniteError, match=r"in step 7 \(draws 224 to 255\)") as raised:
        watching.check(heard(7, loss=loss, norm=norm))
    assert (raised.value.exit_code, raised.value.step, raised.value.agreed) == (EXIT_STOPPED, 7, True)


def test_where_the_same_step_fails_again_a_restart_would_meet_it_again() -> None:
    with pytest.raises(NonFiniteError, match=r"in step 7 \(draws 224 to 255\).*the second time") as raised:
        guard(failed_before=[3, 7]).check(heard(7, loss=NAN))
    assert raised.value.exit_code == EXIT_FAILED
    assert "data.skip_draws=[[224,256]]" in str(raised.value.hint)


def test_so_many_steps_of_a_run_may_be_left_out_where_the_weights_were_kept(caplog: pytest.LogCaptureFixture) -> None:
    watching = guard(max_skipped=2)
    watching.check(heard(4, loss=NAN, norm=NAN, skipped=True), skipped_before=0)
    watching.check(heard(5))
    watching.check(heard(9, norm=INF, skipped=True), skipped_before=1)
    assert "step 9 (draws 288 to 319): the step is left out, 2 of 2 (cadence.max_skipped)" in caplog.text
    with pytest.raises(NonFiniteError, match="step 11 "):
        watching.check(heard(11, norm=NAN, skipped=True), skipped_before=2)


def test_a_step_that_moved_the_weights_is_never_passed_over() -> None:
    with pytest.raises(NonFiniteError, match="step 4 "):
        guard(max_skipped=9).check(heard(4, loss=NAN, skipped=False))


def test_what_is_to_be_kept_of_the_steps_before_is_kept_first() -> None:
    kept: list[str] = []
    watching = guard()
    watching.check(heard(0), before_raising=lambda: kept.append("a snapshot on its way"))
    assert not kept
    with pytest.raises(NonFiniteError):
        watching.check(heard(1, loss=NAN), before_raising=lambda: kept.append("a snapshot on its way"))
    assert kept == ["a snapshot on its way"]


def test_an_fp16_overflow_is_passed_over() -> None:
    watching = guard(fp16=True)
    for step in range(49):
        watching.check(heard(step, norm=INF, skipped=True))


def test_fifty_fp16_overflows_in_a_row_are_too_many() -> None:
    watching = guard(fp16=True)
    for step in range(49):
        watching.check(heard(step, norm=INF, skipped=True))
    with pytest.raises(NonFiniteError, match="50 steps in a row overflowed"):
        watching.check(heard(49, norm=INF, skipped=True))


def test_one_applied_step_starts_the_count_of_overflows_again() -> None:
    watching = guard(fp16=True)
    for step in range(90):
        watching.check(heard(step, skipped=step != 45))


def test_a_loss_that_is_not_finite_is_no_overflow() -> None:
    with pytest.raises(NonFiniteError, match="step 3 "):
        guard(fp16=True).check(heard(3, loss=NAN))


# ---------------------------------------------------------------- stop


@pytest.fixture
def stop(tmp_path: Path) -> Iterator[Stop]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    wish = Stop(tmp_path, world=ALONE, stop_at=7)
    yield wish
    wish.close()
    for number, handler in before.items():  # this process does not take leave
        signal.signal(number, handler)


def test_nobody_asked_so_nobody_wants_to_stop(stop: Stop) -> None:
    assert not stop.wanted()


def test_stop_at_is_due_after_that_step_and_no_other(stop: Stop) -> None:
    assert [step for step in range(20) if stop.is_due(step)] == [7]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_wish_for_all_later_steps(stop: Stop, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert stop.wanted()
    assert stop.wanted()


def test_the_file_stop_in_the_run_folder_is_a_wish(stop: Stop, tmp_path: Path) -> None:
    assert not stop.wanted()
    (tmp_path / "stop").touch()
    assert stop.wanted()


def test_a_stop_file_of_an_earlier_job_is_removed(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    wish = Stop(tmp_path, world=ALONE)
    assert not (tmp_path / "stop").exists()
    assert not wish.wanted()
    wish.close()


def test_a_folder_called_stop_is_one_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "stop").mkdir()
    with pytest.raises(MachineError, match=f"{tmp_path}/stop asks to stop and cannot be removed"):
        Stop(tmp_path, world=ALONE)


def test_only_the_first_rank_touches_the_stop_file(tmp_path: Path) -> None:
    """Another rank may start later: it must not take away a wish that is meant for this job."""
    (tmp_path / "stop").touch()
    Stop(tmp_path, world=SECOND).close()
    assert (tmp_path / "stop").exists()


def test_close_gives_the_signals_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    wish = Stop(tmp_path, world=ALONE)
    assert all(signal.getsignal(number) not in before for number in SIGNALS)
    wish.close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


BLOCKED_STEP = """
import hashlib, os, signal, sys, time
from pathlib import Path
from umt_ds.distributed.world import World
from umt_ds.engine.stop import Stop
stop = Stop(Path(sys.argv[1]), world=World.alone())
os.kill(os.getpid(), signal.SIGTERM)
print("blocked", flush=True)
began = time.monotonic()
while time.monotonic() - began < 1.5:  # no handler runs while C code works
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)
print(stop.wanted(), flush=True)
stop.close()
"""


@pytest.mark.parametrize(
    ("pause_s", "code", "said"), [(0.1, 0, "True\n"), (0.8, 128 + signal.SIGTERM, "")], ids=["one wish", "two wishes"]
)
def test_whether_two_signals_are_one_wish_depends_on_when_they_came_not_on_when_a_step_ends(
    tmp_path: Path, pause_s: float, code: int, said: str
) -> None:
    """Ctrl-C reaches a rank from the terminal and once more from `umt train --ranks`: that is one wish, to stop
    with a checkpoint. Who asks again a moment later wants out at once, whatever the step does."""
    command = [sys.executable, "-c", BLOCKED_STEP, str(tmp_path)]
    rank = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "blocked\n"
    time.sleep(pause_s)
    rank.send_signal(signal.SIGTERM)
    rest, _ = rank.communicate(timeout=60)
    assert (rank.returncode, rest) == (code, said)


ON_THE_WAY_OUT = """
import os, signal, sys
from pathlib import Path
from umt_ds.distributed.world import World
from umt_ds.engine.stop import Stop
stop = Stop(Path(sys.argv[1]), world=World.alone())
os.kill(os.getpid(), signal.SIGTERM)
stop.close()
os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(75)
"""


def test_a_wish_that_comes_again_after_the_checkpoint_does_not_change_how_the_process_ends(tmp_path: Path) -> None:
    """Steps of milliseconds: a launcher's second signal meets a rank that has saved and takes leave."""
    done = subprocess.run([sys.executable, "-c", ON_THE_WAY_OUT, str(tmp_path)], env=environment(), timeout=60)
    assert done.returncode == 75


# ---------------------------------------------------------------- speed


class Clock:
    """Stands in for the module `time`: it moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_a_lap_is_the_time_and_the_steps_since_the_last_one(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 3
    watch.count_step()
    watch.count_step()
    assert watch.lap() == speed.Lap(seconds=3.0, data_s=0.0, own_s=0.0, steps=2)
    clock.now += 4
    watch.count_step()
    assert watch.lap() == speed.Lap(seconds=4.0, data_s=0.0, own_s=0.0, steps=1)


def test_pauses_do_not_count(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 1
    for _ in range(2):
        with watch.paused():
            clock.now += 50
    clock.now += 2
    assert watch.lap().seconds == 3.0
    assert watch.lap().seconds == 0.0, "the pauses belong to the lap that is over"


def test_only_the_wait_for_a_batch_is_data_time(clock: Clock) -> None:
    def slow_batches() -> Iterator[str]:
        for name in "abc":
            clock.now += 2  # the loader works
            yield name
        clock.now += 1  # and finds that there are no more

    watch = Stopwatch()
    seen = []
    for batch in watch.timed_data(slow_batches()):
        seen.append(batch)
        with watch.preparing():
            clock.now += 3  # the teacher works
        clock.now += 7  # the model works
    assert seen == ["a", "b", "c"]
    assert watch.lap() == speed.Lap(seconds=37.0, data_s=7.0, own_s=16.0, steps=0)


class Stream:
    """A device that works through what is queued, one thing after another, with a host that is ahead of it."""

    def __init__(self) -> None:
        self.host_s = self.device_s = 0.0

    def queue(self, work_s: float) -> None:
        self.device_s = max(self.device_s, self.host_s) + work_s

    def mark(self, **_: object) -> Stream.Mark:
        return Stream.Mark(self)

    class Mark:
        def __init__(self, stream: Stream) -> None:
            self._stream = stream

        def record(self) -> None:
            self._stream.queue(0.0)
            self.at_s = self._stream.device_s

        def query(self) -> bool:
            return self.at_s <= self._stream.host_s

        def elapsed_time(self, end: Stream.Mark) -> float:
            return 1e3 * (end.at_s - self.at_s)


@pytest.mark.parametrize(("loader_s", "stall_s"), [(0.072, 0.001), (0.05, 0.0), (0.171, 0.1)])
def test_a_device_waits_for_data_only_when_it_has_nothing_else_to_do(
    monkeypatch: pytest.MonkeyPatch, loader_s: float, stall_s: float
) -> None:
    """The host has queued a step of 71 ms and waits for the batch of the next: that wait is not the device's."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", stream.mark)
    timer = DeviceTimer(torch.device("cuda"))
    stream.queue(0.071)
    for _ in range(100):
        with timer.running():
            stream.host_s += loader_s
        stream.queue(0.071)
    told = timer.take()
    stream.host_s = stream.device_s
    told += timer.take()  # what the device had not reached yet counts now
    assert told == pytest.approx(100 * stall_s, abs=1e-9)


def test_a_device_that_moves_on_while_it_is_asked_loses_no_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stretch has not ended when it is asked about, the second has a moment later."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", stream.mark)
    timer = DeviceTimer(torch.device("cuda"))
    for wait_s in (0.3, 0.04):
        with timer.running():
            stream.queue(wait_s)
    asked: list[Stream.Mark] = []

    def reached(mark: Stream.Mark) -> bool:
        asked.append(mark)
        return len(asked) > 1

    monkeypatch.setattr(Stream.Mark, "query", reached)
    assert timer.take() + timer.take() == pytest.approx(0.34)


def test_an_error_of_the_loader_passes_through(clock: Clock) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("shard 3")

    with pytest.raises(RuntimeError, match="shard 3"):
        list(Stopwatch().timed_data(broken()))


def test_a_cpu_has_a_measured_peak_and_a_resident_size() -> None:
    flops, source = peak_flops(CPU)
    assert 1e8 < flops < 1e14, "between a toy and a rack"
    assert source == "measured matrix product"
    assert 0.05 < peak_memory_gib(CPU) < 1000


def test_a_span_is_recorded_without_the_spans_inside_it(clock: Clock) -> None:
    recorder = Recorder(CPU)
    with recorder.active(), span("backward"):
        clock.now += 1
        with span("communication"):
            clock.now += 3
        with span("communication"):
            clock.now += 4
        clock.now += 2
    assert recorder.seconds() == {"backward": 3.0, "communication": 7.0}


def test_nothing_is_recorded_while_nobody_records(clock: Clock) -> None:
    recorder = Recorder(CPU)
    with span("before"):
        clock.now += 1
    with recorder.active():
        pass
    with span("after"):
        clock.now += 1
    assert recorder.seconds() == {}


def test_waiting_for_the_loader_is_the_span_data(clock: Clock) -> None:
    recorder, watch = Recorder(CPU), Stopwatch()
    with recorder.active():
        list(watch.timed_data(iter("abc")))
    assert recorder.seconds() == {"data": 0.0}


def test_collectives_of_several_ranks_are_spans_while_somebody_records() -> None:
    told = run_ranks(2, [call("tests.unit.engine.test_guard_stop_speed:record_collectives")])
    assert told == [[[True, True, True]], [[True, True, True]]]


def record_collectives() -> list[bool]:
    """On each of two ranks: is a collective a span, also by a reference taken before, and is all as before after?"""
    reduce, before = dist.all_reduce, dict(vars(dist.ProcessGroup))
    recorder = Recorder(CPU)
    with recorder.active(), span("backward"):
        numbers = torch.ones(4)
        reduce(numbers)
        dist.all_gather_into_tensor(torch.empty(8), numbers, async_op=True).wait()
    seconds = recorder.seconds()
    restored = dict(vars(dist.ProcessGroup)) == before
    return [seconds.keys() == {"backward", "communication"}, seconds["communication"] > 0, restored]
