"""`grandest audit operators` and `audit erasure` against a small real chain, asked without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import Height
from node.api.audits import AuditsAnswer, audits_answer
from node.cli import ExitCode, asked_node, audited_duties, durability
from node.client.home import read_client_home, write_client_home
from storage.audits import AskedLeaf, Failed, FailureKind, Finding, Passed, ReportFindings, ReportPurge
from storage.identifiers import SeatIndex
from storage.ledger_audits import appointed, running_epoch
from storage.member_proofs import proven_schedule
from storage.seat_changes import AddSeat, ReplaceOccupant
from storage.tags import bucket_tag, bucket_tag_key, name_tag, tenant_tag_key
from storage.transactions import DeleteEntries, EntryName, Extent
from testnet.cli import main
from tests.node.api.site import Site, open_site
from tests.storage.ledger_world import TENANT, entry, segment_id

EPOCH_MS = 600_000
SUBJECT = SeatIndex(1)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site, None]:
    async with open_site(tmp_path / "site") as opened:
        store = opened.store

        def fetch(_http: object, path: str) -> bytes:
            if path == "/v1/audits":
                return msgspec.json.encode(audits_answer(store))
            if path == "/v1/raw/members":
                return b"".join(len(proof).to_bytes(4, "big") + proof for proof in store.member_changes())
            if path.startswith("/v1/proofs/state/"):
                state_key = bytes.fromhex(path.removeprefix("/v1/proofs/state/").partition("?")[0])
                return encode(store.proof(state_key))
            raise AssertionError(path)

        @contextmanager
        def open_node(_addresses: tuple[str, ...]) -> Generator[tuple[None, int]]:
            yield None, store.tip.height

        def blocks(_http: object, heights: range, _progress: object) -> Generator[bytes]:
            yield from store.decided_range(Height(heights.start), len(heights), 1 << 30)

        monkeypatch.setattr(audited_duties, "fetch", fetch)
        monkeypatch.setattr(audited_duties, "open_node", open_node)
        monkeypatch.setattr(audited_duties, "blocks", blocks)
        monkeypatch.setattr("node.cli.asked_node.fetch", fetch)
        monkeypatch.setattr("node.cli.asked_node.open_node", open_node)
        yield opened


@pytest.fixture
def keys(tmp_path: Path, site: Site) -> Path:
    folder = tmp_path / "client"
    write_client_home(
        folder, signing_seed=bytes(32), master_seed=bytes(32), tenant=TENANT, genesis=encode(site.world.genesis)
    )
    return folder


def deletion(keys: Path, bucket: str, name: str) -> DeleteEntries:
    tag_key = tenant_tag_key(read_client_home(keys).master_keys[0])
    tag = bucket_tag(tag_key, bucket)
    entry_name = EntryName(bucket_tag=tag, name_tag=name_tag(bucket_tag_key(tag_key, tag), name), version_id=None)
    return DeleteEntries(tenant=TENANT, entries=(entry_name,))


def erasure(keys: Path, place: str) -> int:
    return main(["audit", "erasure", place, "--node", "http://127.0.0.1:1", "--keys", str(keys), "--json"])


async def test_an_erasure_is_done_when_every_operator_has_purged_its_height(
    site: Site, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = site.world
    site.append()
    site.append(world.transaction(deletion(keys, "photos", "2026/a.jpg")))
    deleted = world.tip.height
    site.append()
    site.append(*(world.transaction(ReportPurge(height=deleted), sender=f"seat {seat}") for seat in range(3)))
    site.append(world.transaction(ReportPurge(height=Height(deleted - 1)), sender="seat 3"))
    site.append()
    assert erasure(keys, "photos/2026/a.jpg") == ExitCode.FAILED
    told = json.loads(capsys.readouterr().out)
    assert told["deleted_height"] == deleted
    assert [found["erased"] for found in told["operators"]] == [True, True, True, False]
    site.append(world.transaction(ReportPurge(height=deleted), sender="seat 3"))
    site.append()
    assert erasure(keys, "photos/2026/a.jpg") == ExitCode.DONE
    capsys.readouterr()
    assert erasure(keys, "photos/another.jpg") == ExitCode.MISSING
    assert "no block deletes photos/another.jpg" in capsys.readouterr().err
    assert erasure(keys, "photos") == ExitCode.USAGE


async def test_seats_that_changed_hands_are_asked_under_their_present_names(
    site: Site, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = site.world
    site.append(world.transaction(deletion(keys, "photos", "a")))
    deleted = world.tip.height
    decide(site, AddSeat(offer=world.offer(4, "newcomer", "Newcomer")), "newcomer")
    decide(site, ReplaceOccupant(offer=world.offer(2, "heir", "Heir")), "heir")
    assert len(site.store.member_changes()) == 2
    senders = ("seat 0", "seat 1", "heir", "seat 3")
    site.append(*(world.transaction(ReportPurge(height=deleted), sender=sender) for sender in senders))
    site.append()
    assert erasure(keys, "photos/a") == ExitCode.FAILED
    told = json.loads(capsys.readouterr().out)
    assert [found["operator"] for found in told["operators"]] == [
        "operator 0",
        "operator 1",
        "Heir",
        "operator 3",
        "Newcomer",
    ]
    assert [found["erased"] for found in told["operators"]] == [True, True, True, True, False]


def decide(site: Site, change: AddSeat | ReplaceOccupant, name: str) -> None:
    """Decide a change and carry it out; whoever is of that name signs at its seat from then on."""
    world = site.world
    site.append(world.propose(change))
    site.append(*(world.approve(0, by=member) for member in range(1, world.context.members.budget.quorum)))
    number = change.offer.number
    site.append()
    world.names[number : number + 1] = [name]


async def test_a_false_report_is_refused(site: Site, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.append(site.world.transaction(deletion(keys, "photos", "a")))
    site.append(*(site.world.transaction(ReportPurge(height=Height(1)), sender=f"seat {s}") for s in range(4)))
    site.append()
    honest = asked_node.fetch
    schedule = proven_schedule(read_client_home(keys).genesis, ())
    report = audited_duties._proven_report(None, schedule, SeatIndex(0))  # type: ignore[arg-type]  # a double
    assert report is not None
    assert report.height == 1

    def forged(http: object, path: str) -> bytes:
        return honest(http, path).replace(b"\x21\x01\x02", b"\x21\x09\x02")  # type: ignore[arg-type]  # a double

    monkeypatch.setattr(audited_duties, "fetch", forged)
    with pytest.raises(RejectionError):
        audited_duties._proven_report(None, schedule, SeatIndex(0))  # type: ignore[arg-type]  # a double


async def test_failures_and_repairs_are_told_with_what_to_do(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    world = site.world
    segment = world.segment("one")
    site.append(world.transaction(world.commit((segment,), entry("one", Extent(segment=0, extent_bytes=9)))))
    leaf = AskedLeaf(segment_id=segment_id("one"), leaf=0)
    failed = Failed(leaves=94, failures=2, reason=FailureKind.MISSING, leaf=leaf)
    for result in (failed, Passed(leaves=94)):
        epoch = running_epoch(site.store)
        body = ReportFindings(epoch=epoch.number, nonce=bytes(32), findings=(Finding(subject=SUBJECT, result=result),))
        signers = appointed(epoch, SUBJECT, world.context)
        site.append(*(world.transaction(body, sender=f"seat {seat}") for seat in signers))
        site.append(later_ms=EPOCH_MS)
    assert main(["audit", "operators", "--node", "http://127.0.0.1:1"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "75.4 %" in shown
    assert "missing, 2 of 94 leaves, first leaf 0" in shown
    assert "to do: look at `grandest node scrub`" in shown
    assert "repairs took 0.2 h on average" in shown
    assert main(["audit", "operators", "--node", "http://127.0.0.1:1", "--json"]) == ExitCode.DONE
    answer = msgspec.json.decode(capsys.readouterr().out, type=AuditsAnswer)
    assert (answer.operators[SUBJECT].failed, answer.operators[SUBJECT].repairs) == (1, 1)
    assert main(["durability", "--node", "http://127.0.0.1:1", "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["repairs_observed"] == 1
    assert told["repair_hours"] == pytest.approx(EPOCH_MS / durability.HOUR_MS, rel=0.01)
