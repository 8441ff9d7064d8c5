"""Check what `GET BUCKET/KEY?proof` answered, from this file and the members' keys alone.

    python verify_frame.py PROOF GENESIS-HASH --genesis FILE [--changes FILE] [--out PLAINTEXT]
    python verify_frame.py PROOF GENESIS-HASH --member HEX --member HEX ... [--changes FILE] [--out PLAINTEXT]

A proof of one frame (up to 65,520 bytes of an object) leads from its plaintext to the signatures of a quorum: the frame
key opens the ciphertext; the ciphertext lies in leaves of a segment's columns, each with a Merkle path to its shard
root; the shard roots stand in the segment's state; that is under the state root of a header; and that is signed.

Members are those of the genesis (any node's `GET /v1/raw/genesis`), or those named one by one in order of seats. Where
they have changed since, `--changes` takes any node's `GET /v1/raw/members`: proofs of the changes, signed by those who
were members before. Exit status 0: proven; 1: not, and why. Byte by byte: docs/formats.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LEAF_BYTES, UNIT_BYTES = 16 * 1024, 64 * 1024
GENESIS, HEADER, COMMIT, STATE_PROOF, SEGMENT, SCHEDULED, OFFER, FRAME_PROOF = 14, 11, 7, 21, 7, 21, 20, 27
ADDED, REMOVED, REPLACED, ROTATED = 1, 2, 3, 4
Chain = tuple[bytes, list[tuple[int, dict[int, bytes]]]]
"""What is trusted: the genesis hash, and from which height on who the members are, by seat."""
OPEN, LAST = object(), object()
NUMBERS, LISTS, TEXTS = range(0x80), range(0x90, 0xA0), range(0xA0, 0xC0)
FIXED = {0xC0: None, 0xC2: OPEN, 0xC3: LAST}
LONG = (
    {0xCC + power: (1 << power, (0x80, 1 << 8, 1 << 16, 1 << 32)[power], int) for power in range(4)}
    | {0xC4 + power: (1 << power, (0, 1 << 8, 1 << 16)[power], bytes) for power in range(3)}
    | {0xD9 + power: (1 << power, (32, 1 << 8)[power], str) for power in range(2)}
    | {0xDC + power: (2 << power, (16, 1 << 16)[power], list) for power in range(2)}
)
"""MessagePack's longer forms: how wide their number is, the least one that needs them, and of what it is."""


class NotProvenError(Exception):
    """The proof does not prove what it says."""


REFUSALS = NotProvenError, InvalidSignature, InvalidTag, LookupError, TypeError, ValueError, RecursionError
"""What verify() and follow_changes() raise: a reason, a signature or key that does not fit, or no form of a proof."""


class Array(list):
    """A decoded array, and the bytes that it was."""

    encoded = b""


def verify(proof: bytes, chain: Chain) -> tuple[bytes, str]:
    """Return the proven plaintext, and what is proven of it; raises one of REFUSALS."""
    answered = _fields(_decode(proof), FRAME_PROOF, 9)
    segment_id, offset, frame_bytes, frame_key, salt, number, is_last, pieces, state = answered
    value, header, signers = _proven_state(state, b"x" + _raw(segment_id, 32), chain)
    tenant, k, segment_bytes, roots, receipted, _, committed, _ = _fields(value, SEGMENT, 8)
    _demand(0 < frame_bytes <= min(UNIT_BYTES, segment_bytes - offset), "a frame outside its segment")
    ciphertext = _ciphertext(range(offset, offset + frame_bytes), segment_bytes, k, roots, _items(pieces))
    _demand(is_last in {OPEN, LAST}, "not said whether the frame is the last of its sealing")
    nonce = number.to_bytes(12, "big")
    bound = _raw(salt, 32) + nonce[4:] + bytes((is_last is LAST,))
    plaintext = AESGCM(_raw(frame_key, 32)).decrypt(nonce, ciphertext, bound)
    return plaintext, (
        f"frame {number}{' (the last)' if is_last is LAST else ''} of its sealing: {len(plaintext)} bytes\n"
        f"segment {segment_id.hex()} of tenant {tenant.hex()}, committed at height {committed}\n"
        f"receipts for columns {receipted} of {len(roots)}; any {k} restore the segment\n"
        f"header {header[2]} of {header[9]} ms since 1970, signed by the members of seats {signers}"
    )


def follow_changes(chain: Chain, changes: bytes) -> None:
    """Learn who the members became, from proofs of their changes; raises one of REFUSALS."""
    while changes:
        end = 4 + int.from_bytes(changes[:4], "big")
        value, header, _ = _proven_state(_decode(changes[4:end]), b"m", chain)
        (kind, subject), effective = _fields(value, SCHEDULED, 2)
        since, members = chain[1][-1]
        _demand(effective == header[2] + 1 and effective > since, "a change out of its place")
        _demand(kind in (ADDED, REMOVED, REPLACED, ROTATED), "a change of no member")
        changed, key, *_ = (subject, None) if kind == REMOVED else _fields(subject, OFFER, 4)
        after = {seat: held for seat, held in {**members, changed: key}.items() if held is not None}
        chain[1].append((effective, after))
        changes = changes[end:]


def _ciphertext(wanted: range, segment_bytes: int, k: int, roots: list[bytes], pieces: list[Array]) -> bytes:
    """Return a range of a segment, unit by unit, from leaves that are proven to be exactly those that hold it."""
    full = segment_bytes // (k * UNIT_BYTES)
    last_unit = -(-(segment_bytes - full * k * UNIT_BYTES) // (k * 64)) * 64
    shard_bytes, found, offset = full * UNIT_BYTES + last_unit, b"", wanted.start
    for leaves, path in pieces:
        before, unit_bytes = (0, UNIT_BYTES) if offset < full * k * UNIT_BYTES else (full, last_unit)
        unit, within = divmod(offset - before * k * UNIT_BYTES, unit_bytes)
        row, column = divmod(unit, k)
        taken = min(unit_bytes - within, wanted.stop - offset)
        _demand(taken > 0, "more leaves than the frame has")
        start = (before + row) * UNIT_BYTES + within
        first, stop = start // LEAF_BYTES, min(-(-(start + taken) // LEAF_BYTES) * LEAF_BYTES, shard_bytes)
        _raw(leaves, stop - first * LEAF_BYTES)
        hashes = [_sha256(b"\0", leaves[at : at + LEAF_BYTES]) for at in range(0, len(leaves), LEAF_BYTES)]
        unused = [_raw(head, 32) for head in _items(path)]
        root = _head(0, -(-shard_bytes // LEAF_BYTES), first, hashes, unused)
        _demand(root == roots[column] and not unused, f"leaves of column {column} are not under its shard root")
        found += leaves[start - first * LEAF_BYTES :][:taken]
        offset += taken
    _demand(offset == wanted.stop, "fewer leaves than the frame has")
    return found


def _head(low: int, high: int, first: int, hashes: list[bytes], unused: list[bytes]) -> bytes:
    """Return the head of the leaves low to high (RFC 6962), of which `hashes` from `first` on are known."""
    if high <= first or first + len(hashes) <= low:
        _demand(bool(unused), "a Merkle path is too short")
        return unused.pop(0)
    if high - low == 1:
        return hashes[low - first]
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    left = _head(low, middle, first, hashes, unused)
    return _sha256(b"\1", left, _head(middle, high, first, hashes, unused))


def _proven_state(proof: object, state_key: bytes, chain: Chain) -> tuple[Array, list, list[int]]:
    """Return the value of a state key, the header whose state root commits it, and who signed that."""
    (header, commit), value, (depth, present, siblings, other) = _fields(proof, STATE_PROOF, 3)
    _demand(isinstance(value, bytes) and other is None, "no proof of presence")
    path = _sha256(state_key)
    turns, shown = int.from_bytes(path, "big"), int.from_bytes(_raw(present, (depth + 7) // 8).ljust(32, b"\0"), "big")
    left = [_raw(sibling, 32) for sibling in _items(siblings)]
    _demand(shown % (1 << 256 - depth) == 0 and shown.bit_count() == len(left), "siblings do not fit their bitmap")
    digest = _sha256(b"\3", path, _sha256(value))
    for level in range(depth - 1, -1, -1):
        bit = 1 << (255 - level)
        sibling = left.pop() if shown & bit else bytes(32)
        digest = _sha256(b"\4", sibling, digest) if turns & bit else _sha256(b"\4", digest, sibling)
    told = _fields(header, HEADER, 10)
    _demand(digest == told[6], "the state is not under the header's state root")
    return _decode(value), told, _signers(header, commit, chain)


def _signers(header: Array, commit: Array, chain: Chain) -> list[int]:
    """Return the members who signed a header: at least a quorum of those of its height."""
    height, _, block_hash, bitmap, signatures = _fields(commit, COMMIT, 5)
    hashed = _sha256(b"grandest/1/header\0", header.encoded)
    _demand((height, block_hash) == (header[3], hashed), "signatures of another header")
    members = [members for since, members in chain[1] if since <= height][-1]
    bits, liars = int.from_bytes(_raw(bitmap, 8), "big"), (len(members) - 1) // 3
    signers, quorum = [seat for seat in range(64) if bits >> seat & 1], len(members) - (len(members) - 1 - liars) // 2
    _demand(len(signers) >= quorum and set(signers) <= members.keys(), f"not signed by {quorum} members")
    _demand(len(_items(signatures)) == len(signers), "not one signature a member")
    # A precommit is [2, height, round, block hash, seat]: a certificate begins alike, but for its tag.
    vote = b"\x95\x02" + commit.encoded[2 : commit.encoded.index(block_hash)] + block_hash
    for seat, signature in zip(signers, signatures, strict=True):
        message = b"grandest/1/precommit\0" + chain[0] + vote + bytes((seat,))
        Ed25519PublicKey.from_public_bytes(members[seat]).verify(_raw(signature, 64), message)
    return signers


def _decode(encoded: bytes) -> Array:
    """Read canonical MessagePack: each value in its shortest form, nothing left over."""
    value, end = _read(encoded, 0)
    _demand(end == len(encoded), "bytes left over")
    return _items(value)


def _read(encoded: bytes, start: int) -> tuple[object, int]:
    first, end = encoded[start], start + 1
    if first in NUMBERS or first in FIXED:
        return FIXED.get(first, first), end
    width, least, kind = LONG.get(first, (0, 0, list if first in LISTS else str))
    _demand(width or first in LISTS or first in TEXTS, "a kind of MessagePack that no record has")
    short = first - (LISTS if kind is list else TEXTS)[0]
    length = int.from_bytes(encoded[end : end + width], "big") if width else short
    end += width
    _demand(length >= least and end + (kind is not int) * length <= len(encoded), "cut off, or in a longer form")
    if kind is not list:
        piece = encoded[end : end + length]
        return (length, end) if kind is int else (piece.decode() if kind is str else piece, end + length)
    values = Array()
    for _ in range(length):
        value, end = _read(encoded, end)
        values.append(value)
    values.encoded = encoded[start:end]
    return values, end


def _fields(value: object, tag: int, count: int) -> list:
    _demand(len(_items(value)) == count + 1 and value[0] == tag, f"no record of tag {tag}")
    return value[1:]


def _items(value: object) -> Array:
    _demand(isinstance(value, Array), "a list expected")
    return value


def _raw(value: object, byte_count: int) -> bytes:
    _demand(isinstance(value, bytes) and len(value) == byte_count, f"{byte_count} bytes expected")
    return value


def _demand(holds: object, wanted: str) -> None:
    if not holds:
        raise NotProvenError(wanted)


def _sha256(*pieces: bytes) -> bytes:
    return hashlib.sha256(b"".join(pieces)).digest()


def _trusted(arguments: argparse.Namespace) -> Chain:
    keys = arguments.member
    if arguments.genesis is not None:
        encoded = arguments.genesis.read_bytes()
        _demand(_sha256(b"grandest/1/genesis\0", encoded) == arguments.genesis_hash, "this is another chain's genesis")
        keys = _fields(_decode(encoded), GENESIS, 5)[2]
    return arguments.genesis_hash, [(0, dict(enumerate(keys)))]


def main() -> int:
    """Check one proof, say what it proves, and write its plaintext."""
    parser = argparse.ArgumentParser(description="Check the proof of one frame of an object.")
    parser.add_argument("proof", type=Path)
    parser.add_argument("genesis_hash", type=bytes.fromhex)
    members = parser.add_mutually_exclusive_group(required=True)
    members.add_argument("--genesis", type=Path)
    members.add_argument("--member", type=bytes.fromhex, action="append")
    parser.add_argument("--changes", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        chain = _trusted(arguments)
        follow_changes(chain, arguments.changes.read_bytes() if arguments.changes else b"")
        plaintext, told = verify(arguments.proof.read_bytes(), chain)
    except REFUSALS as error:
        print(f"not proven: {type(error).__name__} {error}", file=sys.stderr)
        return 1
    if arguments.out:
        arguments.out.write_bytes(plaintext)
    print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
