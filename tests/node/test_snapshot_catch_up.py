"""A member that is far behind gets a state from those who have it; who lies, stalls or stops costs one question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, MemberIndex, Round, Signature
from consensus.messages import (
    CatchUpRequest,
    CatchUpResponse,
    HeadsRequest,
    HeadsResponse,
    PieceRequest,
    PieceResponse,
    SnapshotRequest,
    SnapshotResponse,
    decode_request,
    decode_response,
    encode_response,
)
from node import snapshot_catch_up
from node.errors import PeerUnreachableError, SnapshotReadyError
from node.snapshot_catch_up import SnapshotCatchUp
from node.snapshot_server import SnapshotServer
from storage.snapshots import SnapshotManifest, decode_manifest
from storage.stores.blocks import open_chain
from storage.stores.installing import install_snapshot
from storage.stores.leveldb import LevelDatabase
from storage.stores.snapshots import IncomingSnapshot, MadeSnapshots
from tests.node.asked import Answering, Members
from tests.node.one_member import OneMember, open_member
from tests.node.real_chain import open_ledger_chain
from tests.node.small_chain import small_chain, small_genesis

Change = Callable[[CatchUpResponse], CatchUpResponse]
INTERVAL = 8
AT = 24
TOP = 27
CHAIN = small_chain(small_genesis(), TOP)
ONE, TWO = MemberIndex(1), MemberIndex(2)
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_catch_up, "LOOK_S", 0.001)
    monkeypatch.setattr(snapshot_catch_up, "PATIENCE_S", 0.001)


@dataclass(frozen=True, slots=True)
class Source:
    """A member that has a snapshot of height AT."""

    member: OneMember

    async def answer(self, payload: bytes) -> bytes:
        return await self.member.server.answer(payload)

    def changed(self, kind: type[CatchUpRequest], change: Change, times: int = 1_000) -> Answering:
        """Answer truly, but for the first questions of one kind."""
        left = times

        async def answering(payload: bytes) -> bytes:
            nonlocal left
            honest = await self.answer(payload)
            if left == 0 or not isinstance(decode_request(payload), kind):
                return honest
            left -= 1
            return encode_response(change(decode_response(honest)))

        return answering


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    made = MadeSnapshots(tmp_path / "source" / "made")
    with open_ledger_chain(tmp_path / "source", CHAIN[:AT], seat=1) as chain, chain.store.view() as view:
        made.make(Height(AT), view)
    with open_member(tmp_path / "source", CHAIN[AT:], seat=1) as member:
        yield Source(member)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[OneMember]:
    with open_member(tmp_path / "behind", CHAIN[:2], seat=8) as member:
        yield member


def says(member: OneMember, index: MemberIndex, height: int) -> None:
    member.consensus.peers.note(index, Height(height))


async def fetch(behind: OneMember, folder: Path, members: Members, *ahead: MemberIndex) -> IncomingSnapshot:
    """Let a member that hears from these that they are ahead fetch until it wants to begin anew."""
    incoming = IncomingSnapshot(folder / "incoming")
    for index in ahead:
        says(behind, index, TOP + 1)
    task = SnapshotCatchUp(
        consensus=behind.consensus,
        asker=members,
        incoming=incoming,
        genesis=small_genesis(),
        interval=INTERVAL,
    )
    with trio.fail_after(PATIENCE_S), pytest.raises(SnapshotReadyError):
        await task.run()
    return incoming


def check_installs(folder: Path, behind: OneMember, incoming: IncomingSnapshot) -> None:
    """The chain of the member that was behind, closed and opened again, stands at the snapshot."""
    behind.chain.store.close()
    assert incoming.is_complete()
    with LevelDatabase(folder / "behind" / "chain") as database:
        install_snapshot(database, small_genesis(), incoming)
    with open_chain(folder / "behind" / "chain", small_genesis()) as store:
        assert store.tip.height == AT
        for decided in CHAIN[AT:]:
            store.append(decided, store.execute(decided.block))


async def test_who_is_far_behind_fetches_the_newest_snapshot_and_goes_on_from_it(
    tmp_path: Path, source: Source, behind: OneMember
) -> None:
    members = Members({ONE: source.answer, TWO: source.answer})
    check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, ONE, TWO))
    assert {member for member, _ in members.asked} == {ONE, TWO}
    assert members.refused == []


def other_value(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, PieceResponse)
    return PieceResponse(piece=response.piece[:-1] + bytes((response.piece[-1] ^ 1,)))


def other_heads(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, HeadsResponse)
    last = response.heads[-1]
    forged = replace(last, commit=replace(last.commit, signatures=(Signature(bytes(64)),) * 6))
    return HeadsResponse(heads=(*response.heads[:-1], forged))


def no_heads(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, HeadsResponse)
    return HeadsResponse(heads=())


@pytest.mark.parametrize(
    ("kind", "lie", "reason"),
    [
        (PieceRequest, other_value, RejectionReason.BAD_PROOF),
        (HeadsRequest, other_heads, RejectionReason.BAD_SIGNATURE),
        (HeadsRequest, no_heads, RejectionReason.MALFORMED),
    ],
)
async def test_a_wrong_part_is_refused_and_asked_for_again(
    tmp_path: Path, source: Source, kind: type[CatchUpRequest], lie: Change, reason: RejectionReason
) -> None:
    members = Members({ONE: source.changed(kind, lie, times=1)})
    with open_member(tmp_path / "behind", CHAIN[:2], seat=8) as behind:
        check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, ONE))
    assert [(member, error.reason) for member, error in members.refused] == [(ONE, reason)]


def fewer_heads(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, HeadsResponse)
    return HeadsResponse(heads=response.heads[:3])


async def test_an_answer_with_fewer_heads_than_asked_for_is_asked_on(
    tmp_path: Path, source: Source, behind: OneMember
) -> None:
    members = Members({ONE: source.changed(HeadsRequest, fewer_heads)})
    check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, ONE))
    asked = [decode_request(payload) for _, payload in members.asked]
    firsts = [request.from_height for request in asked if isinstance(request, HeadsRequest)]
    assert firsts == list(range(3, AT, 3))


def other_root(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, SnapshotResponse)
    manifest = decode_manifest(response.manifest)
    cells = (replace(manifest.cells[0], subtree=bytes([1]) * 32), *manifest.cells[1:])
    return replace(response, manifest=encode(SnapshotManifest(height=manifest.height, cells=cells)))


def nobody_signed(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, SnapshotResponse)
    commit = response.certifying.commit
    forged = replace(commit, round=Round(3))
    return replace(response, certifying=replace(response.certifying, commit=forged))


def far_future(response: CatchUpResponse) -> CatchUpResponse:
    assert isinstance(response, SnapshotResponse)
    manifest = decode_manifest(response.manifest)
    return replace(response, manifest=encode(replace(manifest, height=Height(10_000))))


@pytest.mark.parametrize("lie", [other_root, nobody_signed, far_future])
async def test_an_offer_that_no_quorum_signed_is_refused(
    tmp_path: Path, source: Source, behind: OneMember, lie: Change
) -> None:
    members = Members({ONE: source.changed(SnapshotRequest, lie), TWO: source.answer})
    check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, ONE, TWO))
    assert {member for member, _ in members.refused} == {ONE}


async def test_a_member_that_falls_silent_is_left_for_another(
    tmp_path: Path, source: Source, behind: OneMember
) -> None:
    async def silent_after_its_offer(payload: bytes) -> bytes:
        if isinstance(decode_request(payload), SnapshotRequest):
            return await source.answer(payload)
        raise PeerUnreachableError("no answer")

    members = Members({ONE: silent_after_its_offer, TWO: source.answer})
    check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, ONE, TWO))
    assert members.refused == []


async def test_what_was_fetched_before_a_restart_is_not_asked_for_again(
    tmp_path: Path, source: Source, behind: OneMember
) -> None:
    answered = 0

    async def stops_soon(payload: bytes) -> bytes:
        nonlocal answered
        answered += isinstance(decode_request(payload), HeadsRequest | PieceRequest)
        if answered > 1:
            raise PeerUnreachableError("no answer")
        return await source.answer(payload)

    incoming = IncomingSnapshot(tmp_path / "incoming")
    says(behind, ONE, TOP + 1)
    task = SnapshotCatchUp(
        consensus=behind.consensus,
        asker=Members({ONE: stops_soon}),
        incoming=incoming,
        genesis=small_genesis(),
        interval=INTERVAL,
    )
    with trio.move_on_after(0.3):
        await task.run()
    assert incoming.heights_of_heads() == (range(3, AT),)
    members = Members({TWO: source.answer})
    check_installs(tmp_path, behind, await fetch(behind, tmp_path, members, TWO))
    assert not any(isinstance(decode_request(payload), HeadsRequest) for _, payload in members.asked)


async def test_who_is_a_little_behind_asks_for_no_snapshot(tmp_path: Path, source: Source) -> None:
    with open_member(tmp_path / "near", CHAIN[: AT - 1], seat=7) as near:
        members = Members({ONE: source.answer})
        says(near, ONE, TOP + 1)
        task = SnapshotCatchUp(
            consensus=near.consensus,
            asker=members,
            incoming=IncomingSnapshot(tmp_path / "incoming"),
            genesis=small_genesis(),
            interval=INTERVAL,
        )
        with trio.move_on_after(0.1):
            await task.run()
    assert members.asked == []


def test_a_member_without_a_snapshot_blames_nobody(tmp_path: Path) -> None:
    with open_ledger_chain(tmp_path, CHAIN[:3]) as chain:
        server = SnapshotServer(chain.store, MadeSnapshots(tmp_path / "made"))
        for question in (SnapshotRequest(), PieceRequest(height=Height(2), number=0)):
            with pytest.raises(RejectionError) as caught:
                server.answer(question)
            assert caught.value.reason is RejectionReason.TOO_LATE
        assert server.answer(HeadsRequest(from_height=Height(4), count=1)) == HeadsResponse(heads=())
