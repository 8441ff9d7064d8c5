"""Node processes whose clock is wrong: a C library of ten lines between Python and the kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shifted_clock.c")


def shifted_clock(folder: Path, seconds: int) -> dict[str, str]:
    """Return the environment in which a process's time of day is so many seconds off."""
    library = folder / "shifted_clock.so"
    compiler = shutil.which("cc")
    assert compiler is not None, "the tests need a C compiler"
    subprocess.run((compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)), check=True)
    return {"LD_PRELOAD": str(library), "GRANDEST_CLOCK_SHIFT_S": str(seconds)}
