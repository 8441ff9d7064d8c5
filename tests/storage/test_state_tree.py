"""The authenticated map against a naive one, and proofs against every mutation."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.encoding import decode, encode
from consensus.errors import RejectionError
from consensus.identifiers import StateRoot
from storage.state import MemoryState
from storage.state_tree import (
    EMPTY,
    EMPTY_ROOT,
    TreeProof,
    check_absence,
    check_inclusion,
    path_of,
    prove,
    root_of_tree,
    update,
)

STATE_KEYS = st.integers(0, 60).map(lambda i: bytes((i,)))
CHANGES = st.dictionaries(STATE_KEYS, st.none() | st.binary(max_size=3), max_size=30)


def naive_root(values: dict[bytes, bytes]) -> bytes:
    return _naive([(path_of(state_key), hashlib.sha256(value).digest()) for state_key, value in values.items()], 0)


def _naive(leaves: list[tuple[bytes, bytes]], depth: int) -> bytes:
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return hashlib.sha256(b"\3" + leaves[0][0] + leaves[0][1]).digest()
    right = [leaf for leaf in leaves if leaf[0][depth // 8] >> (7 - depth % 8) & 1]
    left = [leaf for leaf in leaves if leaf not in right]
    return hashlib.sha256(b"\4" + _naive(left, depth + 1) + _naive(right, depth + 1)).digest()


def write(state: MemoryState, changes: dict[bytes, bytes | None]) -> StateRoot:
    change = update(state, changes)
    state.commit(changes, change.pages)
    return change.root


def tree_of(count: int) -> tuple[MemoryState, StateRoot]:
    state = MemoryState()
    return state, write(state, {i.to_bytes(4, "big"): b"value %d" % i for i in range(count)})


def test_an_empty_map_has_the_empty_root() -> None:
    state = MemoryState()
    assert update(state, {}).root == update(state, {b"absent": None}).root == root_of_tree(state) == EMPTY_ROOT
    check_absence(EMPTY_ROOT, b"absent", prove(state, b"absent"))


@settings(max_examples=150)
@given(st.lists(CHANGES, max_size=6))
def test_every_batch_gives_the_naive_root_and_proofs_of_all_keys(batches: list[dict[bytes, bytes | None]]) -> None:
    state = MemoryState()
    for changes in batches:
        root = write(state, changes)
        assert root == naive_root(state.values) == root_of_tree(state)
    for number in range(64):
        state_key = bytes((number,))
        proof = prove(state, state_key)
        if state_key in state.values:
            check_inclusion(root_of_tree(state), state_key, state.values[state_key], proof)
            with pytest.raises(RejectionError):
                check_absence(root_of_tree(state), state_key, proof)
        else:
            check_absence(root_of_tree(state), state_key, proof)
            with pytest.raises(RejectionError):
                check_inclusion(root_of_tree(state), state_key, b"", proof)


@settings(max_examples=50)
@given(st.dictionaries(STATE_KEYS, st.binary(max_size=3), min_size=1), st.randoms(use_true_random=False))
def test_the_order_of_writing_changes_neither_root_nor_pages(values: dict[bytes, bytes], random: object) -> None:
    at_once, one_by_one = MemoryState(), MemoryState()
    write(at_once, dict(values))
    for state_key in sorted(values, key=lambda k: hashlib.sha256(repr(random).encode() + k).digest()):
        write(one_by_one, {state_key: values[state_key], b"passing": b"by"})
        write(one_by_one, {b"passing": None})
    assert one_by_one.pages == at_once.pages


def test_deleting_all_leaves_no_page() -> None:
    state, _ = tree_of(300)
    assert write(state, dict.fromkeys(list(state.values))) == EMPTY_ROOT
    assert state.pages == {}


def test_any_flipped_bit_of_a_proof_is_refused() -> None:
    state, root = tree_of(40)
    for state_key, value in ((b"\0\0\0\7", b"value 7"), (b"absent", None), (b"nobody", None), (b"no one", None)):
        encoded = encode(prove(state, state_key))
        for bit in range(len(encoded) * 8):
            mutated = bytearray(encoded)
            mutated[bit // 8] ^= 1 << bit % 8
            with pytest.raises(RejectionError):
                check_encoded(root, state_key, value, bytes(mutated))


def check_encoded(root: StateRoot, state_key: bytes, value: bytes | None, encoded: bytes) -> None:
    proof = decode(encoded, TreeProof, bytes_max=4096)
    if value is None:
        check_absence(root, state_key, proof)
    else:
        check_inclusion(root, state_key, value, proof)


def test_a_proof_is_of_one_key_and_value_alone() -> None:
    state, root = tree_of(40)
    proof = prove(state, b"\0\0\0\7")
    for state_key, value in ((b"\0\0\0\7", b"value 8"), (b"\0\0\0\10", b"value 7")):
        with pytest.raises(RejectionError, match="bad_proof: the proof leads to another root"):
            check_inclusion(root, state_key, value, proof)


def test_a_leaf_does_not_pass_as_the_place_of_a_key_elsewhere() -> None:
    state, root = tree_of(40)
    absent = prove(state, b"absent")
    for number in range(40):
        with pytest.raises(RejectionError):
            check_absence(root, number.to_bytes(4, "big"), absent)


def test_proofs_stay_small_with_many_keys() -> None:
    state, root = tree_of(20_000)
    sizes = list[int]()
    for number in range(0, 20_000, 997):
        state_key = number.to_bytes(4, "big")
        proof = prove(state, state_key)
        check_inclusion(root, state_key, b"value %d" % number, proof)
        sizes.append(len(encode(proof)))
    assert max(sizes) < 1024  # 14 levels and a few more; a million keys add 6 levels of 34 bytes
