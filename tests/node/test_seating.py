"""A node's seats are those of the state, as it reaches them; keys to come take their place, crashes or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from consensus.identifiers import MemberIndex
from node.config import NodeConfig, PeerOverride
from node.keys import (
    FOLDER,
    NETWORK_NAME,
    NEXT_FOLDER,
    RECORD_NAME,
    SIGNING_NAME,
    create_keys,
    finish_next_keys,
    load_keys,
    take_next_keys,
)
from node.seating import is_reseated, seated_key, seating_of, turn_of
from node.signer import create_signer_record
from storage.identifiers import SeatIndex
from storage.seat_changes import ReplaceOccupant
from tests.node.api.site import config_of
from tests.storage.ledger_world import World, signing_key


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A member's home with keys to come."""
    create_keys(tmp_path / FOLDER)
    create_signer_record(tmp_path)
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "log").write_bytes(b"what the old key has said")
    (tmp_path / FOLDER / "object-store").write_text("the operator's own")
    create_keys(tmp_path / NEXT_FOLDER)
    create_signer_record(tmp_path / NEXT_FOLDER)
    return tmp_path


def test_keys_to_come_wait_until_the_chain_seats_them(home: Path) -> None:
    old, following = load_keys(home / FOLDER), load_keys(home / NEXT_FOLDER)
    assert not take_next_keys(home, old, old.signing.public)
    assert not take_next_keys(home, old, signing_key("somebody").public)
    assert not take_next_keys(home, old, None)
    assert take_next_keys(home, old, following.signing.public)
    assert load_keys(home / FOLDER).signing.public == following.signing.public
    assert not (home / NEXT_FOLDER).exists()
    assert (home / FOLDER / "object-store").read_text() == "the operator's own"
    assert not (home / "wal" / "log").exists()
    assert (home / RECORD_NAME).exists()
    kept = home / f"keys-of-{old.signing.public.hex()[:16]}"
    assert load_keys(kept).network.public == old.network.public
    assert (kept / RECORD_NAME).exists()


@pytest.mark.parametrize("renames", range(5))
def test_a_crash_between_any_two_steps_is_finished_at_the_next_start(
    home: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    following = load_keys(home / NEXT_FOLDER).signing.public
    done = [0]
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if done[0] == renames:
            raise KeyboardInterrupt
        done[0] += 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            take_next_keys(home, load_keys(home / FOLDER), following)
    finish_next_keys(home)
    keys = load_keys(home / FOLDER)
    assert (home / RECORD_NAME).exists()
    assert take_next_keys(home, keys, following) == (keys.signing.public != following)
    assert load_keys(home / FOLDER).signing.public == following
    assert (home / RECORD_NAME).exists()
    assert {(home / FOLDER / name).exists() for name in (SIGNING_NAME, NETWORK_NAME)} == {True}


def test_seats_follow_the_state_and_keep_the_nodes_own_addresses(tmp_path: Path) -> None:
    world = World(seats=4)
    config = config_of(world, tmp_path)
    known = world.context.membership
    seating = seating_of(config, world.context)
    assert (seating.operator, sorted(seating.others)) == ("operator 2", [0, 1, 3])
    world.change(ReplaceOccupant(offer=world.offer(3, "new")), "new")
    assert is_reseated(known, world.context.membership)
    found = seating_of(config, world.context)
    assert found.seats[MemberIndex(3)].operator == "operator new"
    assert seated_key(world.context.membership, MemberIndex(3)) == signing_key("new").public
    assert turn_of(MemberIndex(2), world.context.membership) == 2
    override = PeerOverride(host="10.0.0.3", shard_port=7)
    moved = seating_of(_with_override(config, override), world.context).seats[MemberIndex(3)]
    assert (moved.host, moved.libp2p_port, moved.shard_port) == ("10.0.0.3", 4001, 7)


def test_who_holds_no_seat_is_nobody_yet(tmp_path: Path) -> None:
    world = World(seats=4)
    config = config_of(world, tmp_path)
    world.change(ReplaceOccupant(offer=world.offer(int(SeatIndex(2)), "new")), "new")
    assert seating_of(config, world.context).operator == "nobody yet"


def _with_override(config: NodeConfig, override: PeerOverride) -> NodeConfig:
    return replace(config, overrides={MemberIndex(3): override})
