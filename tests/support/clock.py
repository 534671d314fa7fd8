"""The wall clock of a process, set without setting that of the machine."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.conftest import needs


class ShiftedClock:
    """The wall clock of a process that was started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        library = folder / "clock_shift.so"
        source = Path(__file__).with_name("clock_shift.c")
        subprocess.run([needs("cc"), "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self._file = folder / "shift"
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """``seconds``: added to the machine's clock from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))
