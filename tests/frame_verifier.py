"""The stand-alone verifier of frames as tests use it: loaded by its path, since it is no part of any room."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Protocol, cast

PROGRAM = Path(__file__).parent.parent / "docs" / "examples" / "verify_frame.py"

Trusted = tuple[bytes, list[tuple[int, dict[int, bytes]]]]
"""Genesis hash, and from which height on who the members are, by seat."""


class FrameVerifier(Protocol):
    """What the program offers."""

    REFUSALS: tuple[type[Exception], ...]

    def verify(self, proof: bytes, chain: Trusted) -> tuple[bytes, str]:
        """Return a proven plaintext, and what is proven of it."""
        ...

    def follow_changes(self, chain: Trusted, changes: bytes) -> None:
        """Learn who the members became."""
        ...


def frame_verifier() -> FrameVerifier:
    """Load the program."""
    spec = importlib.util.spec_from_file_location("verify_frame", PROGRAM)
    assert spec is not None, PROGRAM
    assert spec.loader is not None, PROGRAM
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("FrameVerifier", module)
