"""Host files of any bytes: hosts and ranks that DeepSpeed's launcher reads in the same way, or one error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.hosts import as_hostfile, read_hostfile
from umt_ds.environment import is_host
from umt_ds.errors import ConfigError

PIECES = st.sampled_from(
    ["gpu003", "gpu004", "GPU003", "localhost", "10.0.0.1", "gpu[1-2]", " ", "\t", "slots=8", "slots=08", "slots=٣",
     "=", "slots = 8", "#", "# größe", "\r", "\x0c", "\u2028", "\ufeff", "\0", ",", ":22", "max_slots=2"]
)  # fmt: skip
LINES = st.lists(PIECES | st.text(max_size=4), max_size=5).map("".join)
GOOD = st.builds("{} slots={}".format, st.from_regex(r"\A[a-z][a-z0-9-]{0,5}\Z"), st.integers(1, 99))
FILES = st.lists(GOOD | LINES, max_size=5).map(lambda lines: "\n".join(lines).encode(errors="replace"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts") / "hosts"


@given(data=FILES | st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-16", "replace")))
def test_any_bytes_are_hosts_or_one_error_that_names_the_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        hosts = read_hostfile(path)
    except ConfigError as error:
        refused = str(error)
    else:
        are_in_the_file(hosts, data)
        return
    assert str(path) in refused


def are_in_the_file(hosts: dict[str, int], data: bytes) -> None:
    assert hosts
    words = data.decode("utf-8-sig").split()
    for host, ranks in hosts.items():
        assert is_host(host)
        assert {host, f"slots={ranks}"} <= {word.partition("#")[0] for word in words}
    by_deepspeed = [re.search(r"^(\S+)\s+slots=(\d+)", line) for line in as_hostfile(hosts).splitlines()]
    assert {match[1]: int(match[2]) for match in by_deepspeed if match} == hosts
