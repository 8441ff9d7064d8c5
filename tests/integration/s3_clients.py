"""The S3 clients that .ci/s3-clients installs."""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path
from shutil import which

HOUSE = Path(__file__).parents[2]
FOLDER = HOUSE / ".build" / "s3-clients"


def installed_client(command: str) -> str:
    """Return a client's program; those of Python lie in an environment of their own."""
    _install()
    own = FOLDER / "bin" / command
    found = str(own) if own.exists() else which(command)
    assert found is not None, f"{command} is not installed"
    return found


@cache
def _install() -> None:
    """Let make install what is missing, for one worker at a time: the machine's packages have one lock as well."""
    FOLDER.parent.mkdir(exist_ok=True)
    with (FOLDER.parent / "tools.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = str(FOLDER.relative_to(HOUSE) / ".ready")
        subprocess.run(["make", "--no-print-directory", target], cwd=HOUSE, check=True)  # noqa: S607 (make of the machine)
