"""Signatures that were found good, remembered: a block's votes come again and again in certificates.

Each precommit stands in the parent's certificate of the next block, each prevote in eight polkas; one verification is
40 us of CPU, one look-up 1 us. Only a check that passed is remembered, under everything that it looked at: key, message
and signature. What was refused is checked again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.signing import SignatureCheck

REMEMBERED_MAX: Final = 4_096
"""Two heights of nine members in ten rounds each; below 2 MiB. A member who floods it with votes only slows us down."""


def remembering(check: SignatureCheck) -> SignatureCheck:
    """Return the check with a memory of its own; thread-safe as the check is."""
    return lru_cache(REMEMBERED_MAX)(check)
