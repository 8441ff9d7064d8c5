"""How far the first walk over the ledger is, as a gateway's log tells it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from consensus.identifiers import PublicKey
from node.client.tenant_chain import GrantedView, TenantView
from node.errors import PeerUnreachableError
from node.gateway.follower import TOLD_SECONDS, tell_of_walk
from storage.identifiers import SeatIndex, TenantId

if TYPE_CHECKING:
    from collections.abc import Sequence

TENANT = TenantId(b"t" * 16)


@dataclass
class Walked:
    """Implements Walk."""

    walked: int = 0
    is_whole: bool = False


@dataclass
class Told:
    """Implements TenantChain; fails the first time."""

    asked: int = 0

    async def tenant(self, tenant: TenantId) -> TenantView | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.asked == 1:
            raise PeerUnreachableError("no node answers")
        return TenantView(
            public_key=PublicKey(bytes(32)),
            home=SeatIndex(0),
            quota_bytes=0,
            segment_bytes=0,
            entry_count=400,
            grants=(),
            access=None,
            escrow=None,
        )

    async def granted(self, public_key: PublicKey) -> tuple[GrantedView, ...]:
        raise AssertionError("nobody asks")


def lines(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage().partition("made: ")[2] for record in caplog.records]


async def test_the_log_tells_how_far_a_walk_is_until_it_is_over(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "node.gateway.follower")
    walk = Walked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_of_walk, walk, TENANT, Told())
        for walked in (50, 100, 300):
            walk.walked = walked
            with trio.move_on_after(TOLD_SECONDS + 0.01 if walked == 50 else TOLD_SECONDS):
                await trio.sleep_forever()
        walk.is_whole = True
    assert lines(caplog) == [
        "##########.............................. 100 of 400 versions",
        "##############################.......... 300 of 400 versions",
    ]
