"""`grandest audit forensics`: two exports in, who signed both out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.chain import chain_rules, genesis_tip, make_block
from consensus.encoding import decode
from consensus.errors import RejectionError
from consensus.identifiers import Milliseconds, Signature
from consensus.votes import SignedVote, check_vote
from node.cli.audit import add_commands
from node.cli.parser import chosen_command
from storage.ledger import genesis_state
from tests.node.small_chain import decide, exported, small_chain, small_genesis

GENESIS = small_genesis()
RULES = chain_rules(GENESIS)


def forensics(folder: Path, one: bytes, other: bytes) -> int:
    (folder / "a").write_bytes(one)
    (folder / "b").write_bytes(other)
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    arguments = parser.parse_args(["audit", "forensics", str(folder / "a"), str(folder / "b"), "--json"])
    return chosen_command(arguments)(arguments)


def forked() -> bytes:
    tip = genesis_tip(GENESIS, genesis_state(GENESIS).state_root)
    first = small_chain(GENESIS, 1)[0].block.header
    block = make_block(tip, RULES, first.proposer, transactions=(), evidence=(), now_ms=Milliseconds(first.time_ms + 1))
    return exported(GENESIS, (decide(GENESIS, block, 0),))


def test_a_fork_is_answered_with_the_signed_votes_of_its_makers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forensics(tmp_path, exported(GENESIS, small_chain(GENESIS, 3)), forked()) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["height"] == 1
    assert [(found["seat"], found["guilt"]) for found in answer["culprits"]] == [(m, "equivocation") for m in range(6)]
    for found in answer["culprits"]:
        for name in ("first", "second"):
            signed = decode(bytes.fromhex(found[name]), SignedVote, bytes_max=1024)
            check_vote(signed, RULES.members)
            assert signed.vote.member == found["seat"]


def test_chains_that_agree_accuse_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = small_chain(GENESIS, 3)
    assert forensics(tmp_path, exported(GENESIS, chain), exported(GENESIS, chain[:2])) == 0
    assert json.loads(capsys.readouterr().out) == {"height": None, "culprits": []}


def test_who_forges_the_blocks_before_a_fork_accuses_nobody(tmp_path: Path) -> None:
    first, second, third = small_chain(GENESIS, 3)
    stranger = Signature(b"x" * 64)
    signatures = tuple(stranger for _ in first.commit.signatures)
    forged = replace(first, commit=replace(first.commit, signatures=signatures))
    with pytest.raises(RejectionError, match="bad_signature: height 1 of both: "):
        forensics(tmp_path, exported(GENESIS, (forged, second)), exported(GENESIS, (forged, third)))


def test_another_file_accuses_nobody(tmp_path: Path) -> None:
    with pytest.raises(RejectionError):
        forensics(tmp_path, exported(GENESIS, small_chain(GENESIS, 1)), b"x" * 99)
