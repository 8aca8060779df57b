"""`umt-launch …`, and `python -m launchers …`."""

import sys

from umt_ds.errors import EXIT_INTERRUPTED


def main() -> None:
    """The program. Its modules are imported in here, so that Ctrl-C meanwhile prints no traceback."""
    try:
        from launchers.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
