"""Records of the chain: kept while an entry refers to them, gone with the last, whatever fails or crashes between."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consensus.identifiers import MemberIndex
from node.ledger_chain import LedgerChain
from node.node_chain import Appended
from storage.identifiers import RecordAddress
from storage.outcomes import FailureReason
from storage.record_claims import RECORD_PREFIXES, state_claims
from storage.stores.blocks import open_chain
from storage.stores.records import RecordStore
from storage.transactions import CommitObjects, DeleteEntries, EntryCommit, EntryName
from tests.storage.ledger_world import BUCKET, NEW_BUCKET, TENANT, World, entry, name_tag


class Place:
    """A chain on disk, fed by a world that decides blocks."""

    def __init__(self) -> None:
        self.world = World()
        self._stack = ExitStack()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._stores = ExitStack()
        self.chain = self._open()

    def _open(self) -> LedgerChain:
        store = self._stores.enter_context(open_chain(self._home / "chain", self.world.genesis))
        records = RecordStore(self._home / "records")
        self._stores.callback(records.close)
        return LedgerChain(store=store, records=records, seat=MemberIndex(0))

    def crash(self) -> None:
        """Open it again; what memory knew is gone."""
        self._stores.close()
        self.chain = self._open()

    def close(self) -> None:
        self._stores.close()
        self._stack.close()

    def append(self, *transactions: bytes) -> Appended:
        """Append a block, its records written before as a voting member does."""
        for encoded in transactions:
            self.write(*(claim.address for claim in self.chain.record_claims(encoded)))
        return self.chain.append(self.world.decide(*transactions))

    def write(self, *addresses: RecordAddress) -> None:
        self.chain.write_records({address: b"sealed " + address for address in addresses})

    def kept(self) -> set[RecordAddress]:
        return {address for address, _ in self.chain.records.rows()}

    def referenced(self) -> set[RecordAddress]:
        rows = (row for prefix in RECORD_PREFIXES for row in self.chain.store.rows(prefix, prefix, 1_000))
        return {claim.address for row in rows for claim in state_claims(*row)}


def renamed(name: str, kept: EntryCommit) -> EntryCommit:
    """Return an entry of another name with the same version and record."""
    return EntryCommit(
        name_tag=name_tag(name),
        version_id=kept.version_id,
        record_address=kept.record_address,
        extents=(),
        condition=kept.condition,
    )


def deletion(name: str) -> DeleteEntries:
    return DeleteEntries(
        tenant=TENANT, entries=(EntryName(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=None),)
    )


def test_a_strangers_failed_commit_erases_no_live_record() -> None:
    place = Place()
    world, live = place.world, entry("victim")
    place.append(world.transaction(world.commit((), live)))
    appended = place.append(world.transaction(world.commit((), renamed("other", live)), sender="stranger"))
    assert appended.erased_records == ()
    assert place.kept() == {NEW_BUCKET.record_address, live.record_address}
    found = place.chain.store.transaction(appended.transaction_ids[0])
    assert found is not None
    assert found.outcome.reason is FailureReason.NOT_GRANTED
    place.close()


def test_a_record_in_two_entries_goes_with_the_second() -> None:
    place = Place()
    world, first = place.world, entry("a")
    place.append(world.transaction(world.commit((), first, renamed("b", first))))
    assert place.append(world.transaction(deletion("a"))).erased_records == ()
    assert place.append(world.transaction(deletion("b"))).erased_records == (first.record_address,)
    assert place.kept() == {NEW_BUCKET.record_address}
    place.close()


def test_records_of_proposals_that_were_not_decided_go_unless_an_entry_has_them() -> None:
    place = Place()
    world, live, dead = place.world, entry("live"), entry("dead")
    place.append(world.transaction(world.commit((), live)))
    place.write(dead.record_address)
    place.chain.erase_unreferenced((live.record_address, dead.record_address))
    assert place.kept() == {NEW_BUCKET.record_address, live.record_address}
    place.close()


class RecordsMachine(RuleBasedStateMachine):
    """Commits that succeed, fail whole, fail alone, share records; deletions; leftovers; crashes."""

    names = st.sampled_from("abc")
    commits = st.lists(
        st.tuples(names, names, st.sampled_from([None, b"", b"wrong" + bytes(11)]), st.booleans()), max_size=3
    )

    def __init__(self) -> None:
        super().__init__()
        self.place = Place()
        self.leftover = set[RecordAddress]()

    def _commit(self, name: str, record: str, condition: bytes | None) -> CommitObjects:
        made = entry(record, condition=condition)
        return self.place.world.commit((), renamed(name, made))

    @rule(commits=commits, deleted=st.none() | names)
    def append(self, commits: list[tuple[str, str, bytes | None, bool]], deleted: str | None) -> None:
        world = self.place.world
        transactions = [
            world.transaction(self._commit(name, record, condition), sender="client" if is_granted else "stranger")
            for name, record, condition, is_granted in commits
        ]
        if deleted is not None:
            transactions.append(world.transaction(deletion(deleted)))
        appended = self.place.append(*transactions)
        assert not set(appended.erased_records) & self.place.referenced()
        claimed = {claim.address for encoded in transactions for claim in self.place.chain.record_claims(encoded)}
        self.leftover -= claimed

    @rule(name=names)
    def leave_over(self, name: str) -> None:
        """A proposal brings a record, and the process dies before its height is decided."""
        address = entry(name).record_address
        self.place.write(address)
        self.leftover.add(address)
        self.place.crash()

    @rule()
    def sweep(self) -> None:
        self.place.chain.find_unreferenced()
        self.place.append()
        self.leftover.clear()

    @invariant()
    def what_is_referred_to_is_here_and_nothing_else(self) -> None:
        assert self.place.kept() - self.leftover == self.place.referenced() - self.leftover
        assert self.place.referenced() <= self.place.kept()

    def teardown(self) -> None:
        self.place.close()


TestRecords = RecordsMachine.TestCase
TestRecords.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
