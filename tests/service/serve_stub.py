"""``ilp serve`` with a stub for the diagnosis."""

from __future__ import annotations

import sys
from pathlib import Path

from ilp_service.errors import IlpError
from ilp_service.service.command import run
from ilp_service.service.configuration import load_configuration

if __name__ == "__main__":
    try:
        run(load_configuration(), (sys.executable, str(Path(__file__).parent / "stub_child.py")))
    except IlpError as error:
        sys.exit(str(error))
