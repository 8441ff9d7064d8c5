"""A process may open as many files as a busy node needs, where the system allows it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from node.descriptors import raise_descriptor_limit
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "after"), [(256, 512, 512), (256, 20_000, 16_384), (18_000, 20_000, 18_000)])
def test_the_limit_rises_and_never_falls(soft: int, hard: int, after: int) -> None:
    command = (sys.executable, "-c", PROGRAM, str(soft), str(hard))
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == f"{after} {after} {hard}\n"
