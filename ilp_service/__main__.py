"""The entry point of ``ilp`` and of ``python -m ilp_service``; imported for nothing else."""

from __future__ import annotations

import os
import signal
import sys


def _stop(_signum: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


# From here on, for imports may take seconds on a cold disk; a shell that has Ctrl-C ignored keeps it so.
_handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _handled:
    signal.signal(signal.SIGINT, _stop)


def main() -> None:
    """Run ``ilp``; Ctrl-C during the first imports is told in a word, later ones are the command's own."""
    from ilp_service.cli import main as run

    try:
        if _handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
