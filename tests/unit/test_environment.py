"""Variables that others set: blank is not set, the rest is read or refused with name, value and what it should be."""

from __future__ import annotations

import ast
import os
import pwd
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.paths import REPO
from umt_ds.environment import Environment, home, is_host, set_default, temporary_folder, working_folder
from umt_ds.errors import ConfigError, MachineError


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_blank_counts_as_not_set(blank: str) -> None:
    env = Environment({"X": blank})
    assert [env.text("X"), env.host("X"), env.path("X")] == [None] * 3
    assert (env.number("X", 5, least=1), env.port("X", 29500)) == (5, 29500)
    assert env.choice("X", ("a", "b")) is None
    assert not env.yes("X")


def test_what_can_be_read_is() -> None:
    env = Environment({"N": " 7\n", "PORT": "29500", "HOST": "gpu003", "WORD": "b", "FLAG": "True", "PATH_": "/a b"})
    assert (env.number("N", 0), env.port("PORT", 1), env.host("HOST")) == (7, 29500, "gpu003")
    assert (env.choice("WORD", ("a", "b")), env.yes("FLAG"), env.path("PATH_")) == ("b", True, Path("/a b"))


@pytest.mark.parametrize("text", ["eight", "8.0", "1e1", "0x8", "1_0", "+8", "٣", "8,4", "9" * 5000, "2(x3)"])
def test_a_number_is_decimal_digits_and_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=.* should be a whole number, 1 or more"):
        Environment({"WORLD_SIZE": text}).number("WORLD_SIZE", 1, least=1)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http"])
def test_a_port_is_within_what_tcp_has(text: str) -> None:
    with pytest.raises(ConfigError, match=f"MASTER_PORT='{text}' should be a whole number from 1 to 65535"):
        Environment({"MASTER_PORT": text}).port("MASTER_PORT", 29500)


def test_a_service_link_of_kubernetes_is_called_so_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"MASTER_PORT='tcp://10\.0\.0\.1:29500' .* should be a port") as caught:
        Environment({"MASTER_PORT": "tcp://10.0.0.1:29500"}).port("MASTER_PORT", 29500)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["gpu003", "dgx-12.cluster", "db_1", "10.0.0.1", "::1", "fe80::1%eth0", "gpu.lab."])
def test_names_and_addresses_are_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text", ["a b", "gpu003:29500", "tcp://a", "-oProxy", "a..b", ".", "gpu[1-2]", "a,b", "ü", "a" * 64, "a\0", "a\n"]
)
def test_what_names_no_single_host_is_none(text: str) -> None:
    assert not is_host(text)


def test_a_long_value_is_told_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        Environment({"X": "y" * 10_000}).number("X", 0)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("text", "yes"), [("1", True), ("Yes", True), ("0", False), ("OFF", False)])
def test_a_flag_is_said_in_words_or_numbers(text: str, yes: bool) -> None:
    assert Environment({"X": text}).yes("X") is yes


def test_a_flag_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="X='2' should be 1 or 0"):
        Environment({"X": "2"}).yes("X")


# ---------------------------------------------------------------- folders


def nobody_knows(uid: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def test_a_user_whom_the_machine_does_not_know_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", nobody_knows)
    monkeypatch.setenv("HOME", "")
    assert home() is None
    monkeypatch.delenv("HOME")
    assert home() is None
    with pytest.raises(ConfigError, match=r"X='~/c\.yaml' should be a path without"):
        Environment({"X": "~/c.yaml"}).path("X")


def test_without_home_the_machine_says_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOME")
    assert home() == Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path
    assert Environment({"X": "~/c.yaml"}).path("X") == tmp_path / "c.yaml"


def test_a_default_for_a_library_replaces_what_is_blank_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_TEST_BLANK", " ")
    monkeypatch.setenv("UMT_TEST_SET", "mine")
    for name in ("UMT_TEST_BLANK", "UMT_TEST_SET"):
        set_default(name, "ours")
    assert (os.environ["UMT_TEST_BLANK"], os.environ["UMT_TEST_SET"]) == ("ours", "mine")


def test_a_machine_without_a_folder_for_temporary_files_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere/tmp"])
    monkeypatch.setenv("TMPDIR", "/nowhere/tmp")
    with pytest.raises(MachineError, match=r"TMPDIR=/nowhere/tmp(.|\n)*export TMPDIR=…"):
        temporary_folder()


def test_a_current_folder_that_was_deleted_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(MachineError, match="the current folder does not exist any more"):
        working_folder()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding_shows_what_it_can(encoding: str) -> None:
    code = "from umt_ds.environment import print_anything; print_anything(); print('a → ü')"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
    assert told.decode(encoding) == {"ascii": "a \\u2192 \\xfc\n", "latin-1": "a \\u2192 ü\n"}[encoding]


# ---------------------------------------------------------------- one place

# Who else may name os.environ, and what for.
EXCEPTIONS = {
    "umt_ds/environment.py": "the one place",
}
WRITING = ("update",)  # for libraries and children; what is read of it goes through Environment
FOLDERS_OF_THE_USER = ("Path.home", "os.path.expanduser", "getpass.getuser", "tempfile.gettempdir", "gettempdir")

MADE_IN_TMPDIR = ("TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile", "mkdtemp", "mkstemp")  # without dir=…


def sources() -> list[Path]:
    return [path for package in ("umt_ds", "launchers", "data_prep") for path in sorted((REPO / package).rglob("*.py"))]


def reads(source: str) -> list[int]:
    """Lines that read variables or folders of the user past umt_ds.environment."""
    tree = ast.parse(source)
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):  # {**os.environ, …} for a child process
            allowed |= {id(value) for key, value in zip(node.keys, node.values, strict=True) if key is None}
        if isinstance(node, ast.Attribute) and node.attr in WRITING:
            allowed.add(id(node.value))
    found = []
    for node in ast.walk(tree):
        is_read = isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
        if is_read and id(node) not in allowed:
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [node.lineno for name in node.names if name.name in ("environ", "getenv", "environb")]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FOLDERS_OF_THE_USER:
            found.append(node.lineno)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            has_folder = any(keyword.arg == "dir" for keyword in node.keywords)
            if name == "expanduser" or (name in MADE_IN_TMPDIR and not has_folder):
                found.append(node.lineno)
    return sorted(set(found))


def test_variables_and_folders_of_the_user_are_read_in_one_place() -> None:
    found = [
        f"{path.relative_to(REPO)}:{line}"
        for path in sources()
        if str(path.relative_to(REPO)) not in EXCEPTIONS
        for line in reads(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("int(os.environ['RANK'])", True),
        ("os.environ.get('RANK')", True),
        ("'RANK' in os.environ", True),
        ("env = os.environ if env is None else env", True),
        ("dict(os.environ.items())", True),
        ("os.environ.setdefault('A', 'b')", True),
        ("os.getenv('RANK')", True),
        ("from os import environ", True),
        ("Path.home() / 'x'", True),
        ("Path(name).expanduser()", True),
        ("with tempfile.TemporaryDirectory() as x: pass", True),
        ("with TemporaryDirectory(dir=temporary_folder()) as x: pass", False),
        ("subprocess.run(x, env={**os.environ, 'RANK': '0'})", False),
        ("os.environ.update(RANK='0')", False),
        ("Environment().number('RANK', 0)", False),
    ],
)
def test_a_reader_past_the_one_place_is_seen(source: str, seen: bool) -> None:
    assert bool(reads(source)) is seen


@pytest.mark.parametrize(
    ("value", "is_there_for_gloo", "is_there_for_nccl"),
    [
        ("", True, True), ("lo", True, True), ("lo,ib0", True, True), ("ib", False, True), ("=ib0", False, True),
        ("ib1", False, False), ("lo,ib1", False, True), ("^docker", False, True),
    ],
)  # fmt: skip
def test_a_network_interface_that_the_machine_lacks_is_refused_by_name(
    value: str, is_there_for_gloo: bool, is_there_for_nccl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "ib0")])
    refused = pytest.raises(
        ConfigError, match=r"X_SOCKET_IFNAME='.*' should be a network interface of .*: one of lo, ib0"
    )
    env = Environment({"X_SOCKET_IFNAME": value})
    for is_there, by_beginning in ((is_there_for_gloo, False), (is_there_for_nccl, True)):
        with nullcontext() if is_there else refused:
            env.check_interfaces("X_SOCKET_IFNAME", by_beginning=by_beginning)
