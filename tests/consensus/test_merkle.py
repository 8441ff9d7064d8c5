"""Merkle trees: RFC 6962's heads, proofs of ranges and list items, and no proof of anything else."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.encoding import decode, encode
from consensus.errors import RejectionError
from consensus.merkle import (
    LEAVES_MAX,
    PATH_MAX,
    RANGE_PROOF_MAX,
    ListProof,
    check_list_proof,
    head_from_range,
    leaf_hash,
    list_proof,
    list_root,
    node_hash,
    prove_range,
    tree_head,
)

CT_ITEMS = [
    bytes.fromhex(item)
    for item in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_HEADS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Heads of the first 0 to 8 items, published with Certificate Transparency's reference log."""


def leaves_of(total: int) -> list[bytes]:
    return [leaf_hash(i.to_bytes(4, "big")) for i in range(total)]


def recursive_head(leaves: list[bytes]) -> bytes:
    """RFC 6962 word for word, as the oracle."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(recursive_head(leaves[:split]), recursive_head(leaves[split:]))


@pytest.mark.parametrize("total", range(9))
def test_heads_are_those_of_certificate_transparency(total: int) -> None:
    assert tree_head([leaf_hash(item) for item in CT_ITEMS[:total]]).hex() == CT_HEADS[total]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 9, 31, 100, 171, 256])
def test_head_has_the_shape_of_rfc_6962(total: int) -> None:
    assert tree_head(leaves_of(total)) == recursive_head(leaves_of(total))


@pytest.mark.parametrize("total", range(1, 14))
def test_every_range_is_proven_under_its_own_place_alone(total: int) -> None:
    leaves = leaves_of(total)
    for first in range(total):
        for count in range(1, total - first + 1):
            proof = prove_range(leaves, first, count)
            wanted = leaves[first : first + count]
            assert head_from_range(wanted, first, total, proof) == tree_head(leaves)
            for elsewhere in {first - 1, first + 1} & set(range(total - count + 1)):
                try:
                    head = head_from_range(wanted, elsewhere, total, proof)
                except RejectionError:
                    continue
                assert head != tree_head(leaves)


def test_a_node_does_not_pass_as_a_leaf() -> None:
    left, right = CT_ITEMS[1], CT_ITEMS[2]
    joined = leaf_hash(left) + leaf_hash(right)
    assert leaf_hash(joined) != tree_head([leaf_hash(left), leaf_hash(right)])


def test_list_root_binds_its_count() -> None:
    items = [b"a", b"b", b"c"]
    assert (
        list_root(items)
        == hashlib.sha256(b"\2" + (3).to_bytes(8, "big") + tree_head([leaf_hash(item) for item in items])).digest()
    )
    # Leaf 2 of 3 has the path of leaf 1 of 2: only the count tells them apart.
    proof = list_proof(items, 2)
    check_list_proof(list_root(items), b"c", proof)
    with pytest.raises(RejectionError, match=r"^bad_proof: item 1 of 2 is not under this root$"):
        check_list_proof(list_root(items), b"c", ListProof(index=1, total=2, path=proof.path))


def test_list_root_of_nothing_differs_from_that_of_an_empty_item() -> None:
    assert list_root([]) != list_root([b""])


def test_a_range_outside_the_tree_is_refused() -> None:
    with pytest.raises(RejectionError, match=r"^bad_proof: 1 leaves from 3 of 3$"):
        head_from_range(leaves_of(1), 3, 3, ())
    with pytest.raises(RejectionError, match=r"^bad_proof: 0 leaves from 0 of 3$"):
        head_from_range([], 0, 3, ())
    with pytest.raises(RejectionError, match=r"^bad_proof: 1 leaves from 0 of 4294967297$"):
        head_from_range(leaves_of(1), 0, LEAVES_MAX + 1, ())


def test_a_proof_of_another_length_is_refused() -> None:
    leaves = leaves_of(5)
    proof = prove_range(leaves, 1, 1)
    with pytest.raises(RejectionError, match=r"^bad_proof: 2 hashes are too few$"):
        head_from_range(leaves[1:2], 1, 5, proof[:-1])
    with pytest.raises(RejectionError, match=r"^bad_proof: 4 hashes are too many$"):
        head_from_range(leaves[1:2], 1, 5, (*proof, bytes(32)))
    with pytest.raises(RejectionError, match=r"^bad_proof: at most 64 hashes of 32 bytes$"):
        head_from_range(leaves[1:2], 1, 5, (*proof[:-1], b"short"))
    with pytest.raises(RejectionError, match=r"^bad_proof: at most 64 hashes of 32 bytes$"):
        head_from_range(leaves[1:2], 1, 5, (bytes(32),) * (RANGE_PROOF_MAX + 1))


def test_the_deepest_proof_costs_its_depth_only() -> None:
    head = head_from_range(leaves_of(1), LEAVES_MAX - 1, LEAVES_MAX, (bytes(32),) * PATH_MAX)
    assert len(head) == 32


@given(items=st.lists(st.binary(max_size=40), min_size=1, max_size=40), choice=st.integers(min_value=0))
def test_every_item_is_proven_and_no_other(items: list[bytes], choice: int) -> None:
    index = choice % len(items)
    root, proof = list_root(items), list_proof(items, index)
    assert decode(encode(proof), ListProof, bytes_max=2048) == proof
    check_list_proof(root, items[index], proof)
    with pytest.raises(RejectionError):
        check_list_proof(root, items[index] + b"!", proof)


@given(
    total=st.integers(min_value=2, max_value=70),
    choice=st.integers(min_value=0),
    place=st.integers(min_value=0),
    flip=st.integers(min_value=1, max_value=255),
)
def test_any_mutated_proof_fails(total: int, choice: int, place: int, flip: int) -> None:
    items = [i.to_bytes(2, "big") for i in range(total)]
    index = choice % total
    root, proof = list_root(items), list_proof(items, index)
    path = bytearray(b"".join(proof.path))
    path[place % len(path)] ^= flip
    mutated = tuple(bytes(path[i : i + 32]) for i in range(0, len(path), 32))
    for forged in (
        msgspec.structs.replace(proof, path=mutated),
        msgspec.structs.replace(proof, total=total + flip),
        msgspec.structs.replace(proof, index=(index + 1) % total),
        msgspec.structs.replace(proof, path=proof.path[1:]),
        msgspec.structs.replace(proof, path=(*proof.path, bytes(32))),
    ):
        with pytest.raises(RejectionError, match=r"^bad_proof: "):
            check_list_proof(root, items[index], forged)


@given(left=st.lists(st.binary(max_size=8), max_size=9), right=st.lists(st.binary(max_size=8), max_size=9))
def test_different_lists_have_different_roots(left: list[bytes], right: list[bytes]) -> None:
    assert (list_root(left) == list_root(right)) == (left == right)
