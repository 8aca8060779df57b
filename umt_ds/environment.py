"""The surroundings: variables that a user, a container, a scheduler or Kubernetes sets, and the folders they imply.

The one place that reads variables. Blank counts as not set. What cannot be read is refused in one line that names the
variable, its value and what it should be.
"""

from __future__ import annotations

import io
import ipaddress
import os
import pwd
import re
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from umt_ds.errors import ConfigError, MachineError

# What a launcher tells each of its ranks, and how many ranks umt-launch planned a job for.
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
EXPECTED_WORLD = "UMT_EXPECTED_WORLD"

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_YES, _NO = ("1", "true", "yes", "on", "y"), ("0", "false", "no", "off", "n")


class Environment:
    """Variables by name, with types: those of this process, or the ones given. None is a variable that is not set."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def text(self, name: str) -> str | None:
        """As it stands, without white space around it."""
        return self._variables.get(name, "").strip() or None

    def raw(self, name: str) -> str | None:
        """As it stands, for a variable where blank has a meaning of its own."""
        return self._variables.get(name)

    def number(self, name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
        """A whole number in decimal digits; `default` where it is not set. Raises ConfigError for anything else, and
        outside `least` to `most`."""
        if (text := self.text(name)) is None:
            return default
        number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if number is None or (least is not None and number < least) or (most is not None and number > most):
            raise self._refusal(name, "a whole number" + _between(least, most))
        return number

    def port(self, name: str, default: int) -> int:
        """A TCP port; `default` where it is not set. Raises ConfigError, also for what Kubernetes sets for a Service
        called `master`."""
        text = self.text(name)
        if text is not None and "://" in text:
            raise ConfigError(
                f"{name}={text!r:.100} looks like a Kubernetes service link and should be a port, such as 29500: "
                f"set {name} in the pod, set enableServiceLinks: false, or give the Service another name"
            )
        return self.number(name, default, least=1, most=65535)

    def host(self, name: str) -> str | None:
        """A host name or an IP address. Raises ConfigError for anything else, such as HOST:PORT."""
        text = self.text(name)
        if text is not None and not is_host(text):
            raise self._refusal(name, "a host name or an IP address, without a port")
        return text

    def check_interfaces(self, name: str, *, by_beginning: bool) -> None:
        """Raises ConfigError where the variable names network interfaces that this machine lacks: all by their whole
        names (gloo), or one at least by its beginning (NCCL, to which `=` is the whole name and `^` all but these)."""
        text = self.text(name)
        if text is None or (by_beginning and text.startswith("^")):
            return
        there = [interface for _, interface in socket.if_nameindex()]
        named = text.removeprefix("=").split(",") if by_beginning else text.split(",")
        fits = any(one.startswith(tuple(named)) for one in there) if by_beginning else set(named) <= set(there)
        if not fits:
            raise self._refusal(name, f"a network interface of {socket.gethostname()}: one of {', '.join(there)}")

    def choice(self, name: str, words: Sequence[str]) -> str | None:
        """One of `words`. Raises ConfigError for any other."""
        text = self.text(name)
        if text is not None and text not in words:
            raise ConfigError(f"{name}={text!r:.100} is not among its words", hint=f"one of {', '.join(words)}")
        return text

    def yes(self, name: str) -> bool:
        """1, true, yes, on, y in any case; 0, false, no, off, n or not set are no. Raises ConfigError for any other."""
        word = (self.text(name) or "no").lower()
        if word not in (*_YES, *_NO):
            raise self._refusal(name, "1 or 0")
        return word in _YES

    def path(self, name: str) -> Path | None:
        """A path; `~` at its start is the home folder. Raises ConfigError where there is none."""
        text = self.text(name)
        if text is None or not (text == "~" or text.startswith("~/")):
            return None if text is None else Path(text)
        folder = home()
        if folder is None:
            raise self._refusal(name, "a path without `~`, as this user has no home folder")
        return folder / text[2:]

    def _refusal(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"{name}={self.text(name)!r:.100} should be {what}")


def _between(least: int | None, most: int | None) -> str:
    if most is not None:
        return f" from {least} to {most}" if least is not None else f", at most {most}"
    return f", {least} or more" if least is not None else ""


def is_host(text: str) -> bool:
    """Whether it can be the name or the IP address of a host (a list of hosts, or one with a port, cannot)."""
    if _HOST.fullmatch(text):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def print_anything() -> None:
    """For a terminal of another encoding (LANG=en_US is Latin-1): signs that it lacks are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_default(name: str, value: str) -> None:
    """For a library that reads the variable itself: set it, unless it is set."""
    if Environment().text(name) is None:
        os.environ[name] = value


def home() -> Path | None:
    """The home folder of this user; None for a user whom the machine does not know, as in `docker run --user 54321`."""
    named = Environment().text("HOME")
    if named is None:
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return Path(named) if named else None


def home_of(user: str) -> Path | None:
    """The home folder of another user; None for one whom the machine does not know."""
    try:
        named = pwd.getpwnam(user).pw_dir
    except (KeyError, ValueError):  # ValueError: a name with a null character
        return None
    return Path(named) if named else None


def at_home(text: str) -> str:
    """`~` and `~name` at the beginning as the home folder they stand for. Raises ValueError where there is none."""
    if not text.startswith("~"):
        return text
    user, _, below = text[1:].partition("/")
    folder = home_of(user) if user else home()
    if folder is None:
        whose = f"{user} has no home folder here" if user else "you have no home folder (HOME is not set)"
        raise ValueError(f"{whose}: write the path without ~{user}")
    return str(folder / below)


def temporary_folder() -> Path:
    """Where Python, torch and their worker processes keep what they need for a moment. Raises MachineError."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        told = Environment().text("TMPDIR")
        raise MachineError(
            f"no folder for temporary files can be written (TMPDIR={told or '(not set)'}, /tmp, /var/tmp, this folder)",
            hint="free space there, or export TMPDIR=… with a folder that can be written",
        ) from error


def working_folder() -> Path:
    """The current folder. Raises MachineError where it was deleted meanwhile."""
    try:
        return Path.cwd()
    except OSError as error:
        raise MachineError("the current folder does not exist any more", hint="cd to one that does") from error
