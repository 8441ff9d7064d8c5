"""`python lying_node.py HOME LIE`: a real node that does not keep what it vouches for, and repairs nothing.

LIE: `tenth` keeps its columns, but has dropped those of one segment in ten; `nothing` signs for columns that it never
stored. Everything else it does as an honest node: it votes, verifies others, reports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from node.holder import Holder
from node.network.shard_messages import Message, Stored
from node.repair_task import RepairTask
from node.runner import run
from node.scrub_task import ScrubTask
from storage.errors import ShardMissingError
from storage.receipts import held_bitmap, sign_receipt

if TYPE_CHECKING:
    from consensus.identifiers import Buffer, PublicKey
    from node.network.shard_messages import AskReceipt, StoreUnits
    from storage.identifiers import SegmentId
    from storage.receipts import Receipt
    from storage.stores.protocols import ShardName

LIE = pytest.MonkeyPatch()
KEPT_OF_256 = 230


async def repair_nothing(_task: RepairTask, _segment_id: SegmentId) -> None:
    """Rebuild nothing."""


async def scrub_nothing(_task: ScrubTask) -> None:
    """Look at nothing."""


def sign_anything(holder: Holder, body: AskReceipt) -> Receipt:
    identity = holder.identity
    return sign_receipt(
        identity.signing_key,
        identity.genesis_hash,
        tenant=body.tenant,
        seat=identity.seat,
        held=held_bitmap(range(len(body.items)), len(body.items)),
        items=body.items,
        expiry_height=body.expiry_height,
    )


def store_nothing(_holder: Holder, _peer: PublicKey, _body: StoreUnits, _units: memoryview) -> Message:
    return Message(Stored())


def drop_a_tenth() -> None:
    checked = Holder._checked

    def checked_unless_dropped(holder: Holder, name: ShardName, first_leaf: int, leaf_count: int) -> tuple[Buffer, ...]:
        if name.segment_id[-1] >= KEPT_OF_256:
            raise ShardMissingError("dropped")
        return checked(holder, name, first_leaf, leaf_count)

    LIE.setattr(Holder, "_checked", checked_unless_dropped)


def main() -> None:
    home, lie = Path(sys.argv[1]), sys.argv[2]
    LIE.setattr(RepairTask, "_repair", repair_nothing)
    LIE.setattr(ScrubTask, "run", scrub_nothing)
    if lie == "nothing":
        LIE.setattr(Holder, "_sign", sign_anything)
        LIE.setattr(Holder, "_store", store_nothing)
    else:
        drop_a_tenth()
    run(home)


if __name__ == "__main__":
    main()
