"""How many files and connections a process may have open: a shell's usual limit is less than a busy node needs."""

from __future__ import annotations

import resource
from typing import Final

DESCRIPTORS: Final = 16_384
"""Four databases of 256 files, 1,024 connections of the API, 256 of the shard channel and 250 of libp2p, many times."""


def raise_descriptor_limit() -> int:
    """Let this process open DESCRIPTORS files, or as many as the system allows it; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
