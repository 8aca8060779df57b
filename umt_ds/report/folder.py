"""The folder that a report is written into."""

from __future__ import annotations

from pathlib import Path

from umt_ds.errors import MachineError
from umt_ds.report.page import picture
from umt_ds.whole_file import write_whole


class ReportFolder:
    """The folder of a report. Files appear whole. Raises MachineError where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error}", hint="choose another folder with -o") from error

    def picture(self, name: str, png: bytes, *, about: str) -> str:
        """Write the PNG; the same picture as HTML."""
        self.write(name, png)
        return picture(png, about=about)
