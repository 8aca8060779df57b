"""What a run was launched with, kept in RUN/launch: configuration, git state, versions, recipes for a container."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

from umt_ds import __version__
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.errors import MachineError
from umt_ds.whole_file import write_whole

_SOURCE = Path(__file__).resolve().parents[1]  # the checkout, or site-packages

_APPTAINER = """\
# Written by umt-launch: an image with the versions of this run.
#   apptainer build umt.sif {launch}/container.def
#   umt-launch … --container umt.sif --container-runtime apptainer
Bootstrap: docker
From: python:{python}

%files
    {launch}/versions.txt /opt/versions.txt

%setup
    source=$APPTAINER_ROOTFS/opt/source
    mkdir -p "$source"
    {copy}

%post
    sed -i 's/+.*//' /opt/versions.txt    # builds of our own have no place in an index
    pip install --no-cache-dir --constraint /opt/versions.txt {package}
"""
_ENROOT = """\
#!/usr/bin/env bash
# Written by umt-launch: an image with the versions of this run, for pyxis. Then: umt-launch … --container umt.sqsh
set -euo pipefail
source=$PWD/source
mkdir -p "$source"
{copy}
sed 's/+.*//' {launch}/versions.txt >"$source/versions.txt"
enroot import --output python.sqsh docker://python:{python}
enroot create --name umt python.sqsh
enroot start --root --rw --mount "$source:/opt/source" umt \\
  pip install --no-cache-dir --constraint /opt/source/versions.txt {package}
enroot export --output umt.sqsh umt
"""


def write_snapshot(run: Path, config: RunConfig, files: Mapping[str, str]) -> Path:
    """RUN/launch, with `files` (text by name) beside the facts; a second launch replaces them. Returns the folder."""
    launch = run / "launch"
    git = _git_state()
    facts = {
        "config.yaml": as_yaml(as_tree(config)),
        "versions.txt": _versions(),
        "container.def": _recipe(_APPTAINER, launch, git),
        "container_enroot.sh": _recipe(_ENROOT, launch, git),
    }
    try:
        launch.mkdir(parents=True, exist_ok=True)
        (launch / "git.diff").unlink(missing_ok=True)
        for name, text in {**facts, **git, **files}.items():
            write_whole(launch / name, text)
    except OSError as error:
        raise MachineError(f"cannot write {launch}: {error}", hint="choose another run_dir") from error
    return launch


def _versions() -> str:
    """All installed packages, as pip reads them."""
    there = [found for found in distributions() if found.metadata["Name"]]  # pip leaves nameless ones after a crash
    lines = {f"{found.metadata['Name']}=={found.version}" for found in there}
    return "\n".join([f"# Python {platform.python_version()}", *sorted(lines, key=str.lower)]) + "\n"


def _git_state() -> dict[str, str]:
    """git.txt (commit, then what is changed or new) and git.diff, of the checkout of this package, or else of the
    current folder; nothing outside a checkout."""
    for folder in (_SOURCE, Path.cwd()):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit:
            diff = _git(folder, "diff", "--binary", "HEAD")
            text = f"{commit}{_git(folder, 'status', '--short')}"
            return {"git.txt": text, "git.diff": diff} if diff else {"git.txt": text}
    return {}


def _git(folder: Path, *words: str) -> str:
    """What git says; nothing where git or a repository is missing."""
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _recipe(template: str, launch: Path, git: Mapping[str, str]) -> str:
    """Install the commit of the checkout and what was changed in it, or the released version."""
    package, copy = f"umt_ds=={__version__}", ""
    if (_SOURCE / "pyproject.toml").is_file() and git:
        commit = git["git.txt"].split()[0]
        source = shlex.quote(str(_SOURCE))
        package, copy = "/opt/source", f'git -C {source} archive {commit} | tar --extract --directory "$source"'
        copy += f' && patch --strip 1 --directory "$source" <{launch}/git.diff' if "git.diff" in git else ""
    python = ".".join(platform.python_version_tuple()[:2])
    return template.format(launch=launch, python=python, copy=copy, package=package)
