"""Records that this node lacks are pulled from members: after catch-up, and when a decision came before its records.

At the start every live entry's record is looked for once, and every record's entry; afterwards only what blocks add.
Addresses are recomputed from what comes, so a lying member is merely asked in vain. What no member has goes behind what
may still be found, and a record that the chain erases while it is on its way here is erased again: it survives nowhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from consensus.messages import RECORD_ADDRESSES_MAX, RecordsRequest, RecordsResponse
from node.catch_up_task import ask
from node.errors import PeerUnreachableError
from node.node_chain import match_records
from storage.record_claims import RECORD_PREFIXES, state_claims

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import MemberIndex
    from node.catch_up_task import Asker
    from node.node_chain import Appended, NodeChain
    from storage.identifiers import RecordAddress
    from storage.record_claims import RecordClaim
    from storage.stores.blocks import ChainStore

LOGGER = logging.getLogger(__name__)

RETRY_S: Final = 1.0
SCAN_ROWS: Final = 1_024
PULLED_MAX: Final = 16 * RECORD_ADDRESSES_MAX
"""Addresses remembered as pulled lately, in case the chain erases them while they are written."""


class RecordsTask:
    """Keeps the records of live entries complete."""

    def __init__(
        self,
        *,
        chain: NodeChain,
        store: ChainStore,
        asker: Asker,
        connected: Callable[[], list[MemberIndex]],
    ) -> None:
        self._chain = chain
        self._store = store
        self._asker = asker
        self._connected = connected
        self._wanted: dict[RecordAddress, RecordClaim] = {}
        self._pulled: dict[RecordAddress, None] = {}
        self._erased_late: set[RecordAddress] = set()
        self._erased_in_scan: set[RecordAddress] | None = set()
        """What the chain erased since the start, until the scan has ended."""
        self._wake = trio.Event()

    @property
    def has_scanned(self) -> bool:
        """Say whether records that a crash left over are known since the start."""
        return self._erased_in_scan is None

    @property
    def missing_count(self) -> int:
        """Records known to be missing."""
        return len(self._wanted)

    def on_appended(self, appended: Appended) -> None:
        """Look whether the records that a block added are here."""
        for address in appended.erased_records:
            self._wanted.pop(address, None)
            if address in self._pulled:
                self._erased_late.add(address)
            if self._erased_in_scan is not None:
                self._erased_in_scan.add(address)
        for claim in appended.added_records:
            self._wanted[claim.address] = claim
        if appended.added_records or self._erased_late:
            self._wake.set()

    async def run(self) -> None:
        """Pull until cancelled."""
        await trio.to_thread.run_sync(self._scan)
        for address in self._erased_in_scan or ():
            self._wanted.pop(address, None)
        self._erased_in_scan = None
        while True:
            await self._erase_late()
            await trio.to_thread.run_sync(self._drop_present)
            if not self._wanted:
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            before = len(self._wanted)
            await self._pull()
            if len(self._wanted) == before:
                await trio.sleep(RETRY_S)

    async def _erase_late(self) -> None:
        if self._erased_late:
            erased = tuple(self._erased_late)
            self._erased_late.clear()
            await trio.to_thread.run_sync(self._chain.erase_unreferenced, erased)

    async def _pull(self) -> None:
        """Ask every member for the longest wanted records; what nobody has waits behind the others."""
        claims = tuple(self._wanted.values())[:RECORD_ADDRESSES_MAX]
        for member in self._connected():
            await self._pull_from(member, claims)
        for claim in claims:
            if self._wanted.pop(claim.address, None) is not None:
                self._wanted[claim.address] = claim

    def _scan(self) -> None:
        self._chain.find_unreferenced()
        for prefix in RECORD_PREFIXES:
            after = prefix
            while page := self._store.rows(prefix, after, SCAN_ROWS):
                for state_key, encoded in page:
                    self._wanted.update({claim.address: claim for claim in state_claims(state_key, encoded)})
                self._drop_present()
                after = page[-1][0]

    def _drop_present(self) -> None:
        for address in self._chain.read_records(tuple(self._wanted)):
            self._wanted.pop(address, None)

    async def _pull_from(self, member: MemberIndex, claims: tuple[RecordClaim, ...]) -> None:
        asked = tuple(claim for claim in claims if claim.address in self._wanted)
        if not asked:
            return
        try:
            request = RecordsRequest(addresses=tuple(claim.address for claim in asked))
            response = await ask(self._asker, member, request)
        except (RejectionError, PeerUnreachableError) as error:
            LOGGER.debug("member %d gives no records: %s", member, error)
            return
        if isinstance(response, RecordsResponse):
            await self._keep(match_records(asked, response.records))

    async def _keep(self, found: dict[RecordAddress, bytes]) -> None:
        kept = {address: sealed for address, sealed in found.items() if address in self._wanted}
        if not kept:
            return
        self._pulled.update(dict.fromkeys(kept))
        while len(self._pulled) > PULLED_MAX:
            del self._pulled[next(iter(self._pulled))]
        await trio.to_thread.run_sync(self._chain.write_records, kept)
        for address in kept:
            self._wanted.pop(address, None)
