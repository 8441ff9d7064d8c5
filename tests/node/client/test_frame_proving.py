"""Proofs of frames, gathered by the client and checked by the stand-alone verifier alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from consensus.encoding import encode
from node.client.frame_proving import frame_place, frames_of
from node.client.new_objects import NewObject, fresh_object_key
from node.client.sources import bytes_source
from node.client.versions import StoredPart
from storage.frame_proofs import FrameProof
from storage.identifiers import COLUMNS_MAX, FRAME_PLAIN_BYTES, PACK_OBJECT_BYTES_MAX
from storage.records import ObjectPart
from tests.frame_verifier import PROGRAM, Trusted, frame_verifier
from tests.node.client.nine import Nine

if TYPE_CHECKING:
    from node.client.client import Client

LARGE = 17 * 1024 * 1024 + 12_345
"""Two segments, the second of a few full stripes and a shorter one."""
BESIDE_LEAVES_MAX = 3 * 1024
DEPTH_OF_A_MILLION = 23
"""Siblings on the way to a key among a million: 20 levels and a few more."""
SIBLING_BYTES = 34
PROGRAM_LINES_MAX = 250
VERIFIER = frame_verifier()


def contents(byte_count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(byte_count)


def trusted(nine: Nine) -> Trusted:
    return nine.genesis_hash, [(0, dict(enumerate(nine.genesis.members)))]


def beside_leaves(proof: FrameProof) -> int:
    """Return the bytes of a proof beside its leaves, as they would be with a million state keys."""
    leaves = sum(len(piece.leaves) for piece in proof.pieces)
    missing = max(0, DEPTH_OF_A_MILLION - len(proof.state.tree.siblings))
    return len(encode(proof)) - leaves + missing * SIBLING_BYTES


async def proven(client: Client, nine: Nine, name: str, position: int) -> bytes:
    """Return a frame's plaintext as the verifier gives it."""
    proof = await client.frames.prove(await client.open("bucket", name), position)
    assert beside_leaves(proof) <= BESIDE_LEAVES_MAX
    plaintext, told = VERIFIER.verify(encode(proof), trusted(nine))
    assert proof.segment_id.hex() in told
    assert nine.home.tenant.hex() in told
    return plaintext


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path)


@pytest.mark.parametrize("byte_count", [1, 1_000, 65_520, 65_521, PACK_OBJECT_BYTES_MAX - 1, PACK_OBJECT_BYTES_MAX])
async def test_every_frame_of_an_object_is_proven(nine: Nine, byte_count: int) -> None:
    plain = contents(byte_count)
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(plain))
        frames = frames_of(await client.open("bucket", "name"))
        assert b"".join([await proven(client, nine, "name", i) for i in range(frames)]) == plain


async def test_frames_of_full_and_of_shorter_stripes_are_proven(nine: Nine) -> None:
    plain = contents(LARGE)
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(plain))
        frames = frames_of(await client.open("bucket", "name"))
        for i in (0, 1, 100, 255, 256, frames - 3, frames - 2, frames - 1):
            start = i * FRAME_PLAIN_BYTES
            assert await proven(client, nine, "name", i) == plain[start : start + FRAME_PLAIN_BYTES]


async def test_a_packed_object_is_proven_among_its_neighbours(nine: Nine) -> None:
    plains = {f"name-{i}": contents(100 + 40_000 * (i % 4) + i, i) for i in range(60)}
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for name, plain in plains.items():
                nursery.start_soon(client.put, "bucket", name, bytes_source(plain))
        assert len(nine.chain.live_segments()) < len(plains) // 4
        for name in list(plains)[::7]:
            frames = frames_of(await client.open("bucket", name))
            assert b"".join([await proven(client, nine, name, i) for i in range(frames)]) == plains[name]


async def test_frames_are_proven_while_three_sites_are_down(nine: Nine) -> None:
    plain = contents(3_000_000)
    async with nine.client() as client:
        await client.put("bucket", "name", bytes_source(plain))
        for seat in (0, 3, 7):
            nine.holders[seat].burn()
        for i in range(0, frames_of(await client.open("bucket", "name")), 5):
            start = i * FRAME_PLAIN_BYTES
            assert await proven(client, nine, "name", i) == plain[start : start + FRAME_PLAIN_BYTES]


async def test_frames_of_parts_are_proven_each_under_its_own_key(nine: Nine) -> None:
    parts = [contents(length, length) for length in (70_000, 1, 200_000)]
    async with nine.client() as client:
        await client.put("bucket", "first", bytes_source(b"makes the bucket"))
        keys, object_key = client.versions.keys("bucket"), fresh_object_key()
        for number, part in enumerate(parts):
            await client.store(NewObject(name=f"part-{number}", keys=keys, object_key=object_key), bytes_source(part))
        stored = [
            StoredPart(await client.open("bucket", f"part-{i}"), ObjectPart(number=i + 1, etag="", checksum=""))
            for i in range(len(parts))
        ]
        await client.versions.commit_parts(NewObject(name="whole", keys=keys), object_key, stored)
        opened = await client.open("bucket", "whole")
        frames = range(frames_of(opened))
        assert b"".join([await proven(client, nine, "whole", i) for i in frames]) == b"".join(parts)
        assert len({frame_place(opened, i).sealing.salt for i in frames}) == len(parts)


async def made_proof(folder: Path) -> tuple[Nine, bytes, int]:
    """Return a chain, the proof of one frame, and how many of its first bytes hold all its leaves."""
    nine = Nine(folder)
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for i in range(4):
                nursery.start_soon(client.put, "bucket", f"name-{i}", bytes_source(contents(900 + i, i)))
        proof = await client.frames.prove(await client.open("bucket", "name-2"), 0)
    encoded = encode(proof)
    return nine, encoded, encoded.rindex(proof.pieces[-1].leaves) + len(proof.pieces[-1].leaves)


@pytest.fixture(scope="module")
def one_proof(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nine, bytes, int]:
    folder = tmp_path_factory.mktemp("proof")
    return trio.run(made_proof, folder)


def test_no_byte_of_a_proof_may_be_another_one(one_proof: tuple[Nine, bytes, int]) -> None:
    nine, encoded, leaves_end = one_proof
    chance = random.Random(7)
    assert VERIFIER.verify(encoded, trusted(nine))[0] == contents(902, 2)
    heads = [*range(160), *range(160, leaves_end, 97), *range(leaves_end, len(encoded))]
    for position in heads:
        changed = bytearray(encoded)
        changed[position] ^= 1 << chance.randrange(8)
        with pytest.raises(VERIFIER.REFUSALS):
            VERIFIER.verify(bytes(changed), trusted(nine))


@given(st.data())
def test_no_change_of_a_proof_passes(one_proof: tuple[Nine, bytes, int], data: st.DataObject) -> None:
    nine, encoded, _ = one_proof
    start = data.draw(st.integers(0, len(encoded)))
    removed = data.draw(st.integers(0, 3))
    added = data.draw(st.binary(max_size=3))
    changed = encoded[:start] + added + encoded[start + removed :]
    if changed != encoded:
        with pytest.raises(VERIFIER.REFUSALS):
            VERIFIER.verify(changed, trusted(nine))


def test_a_proof_is_worth_nothing_to_other_members(one_proof: tuple[Nine, bytes, int]) -> None:
    nine, encoded, _ = one_proof
    genesis_hash, ((_, members),) = trusted(nine)
    for other in (
        (bytes(32), [(0, members)]),
        (genesis_hash, [(0, {**members, 0: members[8]})]),
        (genesis_hash, [(0, {seat: members[seat] for seat in range(5)})]),
        (genesis_hash, [(0, {**members, **{seat: bytes([seat]) * 32 for seat in range(9, 14)}})]),
    ):
        with pytest.raises(VERIFIER.REFUSALS):
            VERIFIER.verify(encoded, other)


def test_the_verifier_is_one_short_file_of_its_own() -> None:
    program = PROGRAM.read_text()
    assert len(program.splitlines()) <= PROGRAM_LINES_MAX
    assert not [
        line for line in program.splitlines() if line.startswith(("from node", "from storage", "from consensus"))
    ]
    assert COLUMNS_MAX == 9
