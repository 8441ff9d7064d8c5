"""Hypothesis strategies: any record of any room, built from its own declared bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from consensus.encoding import Record
from consensus.identifiers import GenesisHash
from consensus.members import MemberSet, member_set
from consensus.signing import SigningKey

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

RecordT = TypeVar("RecordT", bound=Record)
BYTES_DRAWN_MAX = 80
"""Long fields are drawn short: the codec treats every byte alike."""
ITEMS_DRAWN_MAX = 3
CHAIN = GenesisHash(bytes(range(32)))


def signing_keys(count: int) -> tuple[SigningKey, ...]:
    """Return the example keys of members 0 to count - 1."""
    return tuple(SigningKey(bytes([i]) * 32) for i in range(count))


def example_members(count: int) -> MemberSet:
    """Return the member set of the example keys."""
    return member_set(CHAIN, tuple(signing_key.public for signing_key in signing_keys(count)))


def records(record_type: type[RecordT]) -> SearchStrategy[RecordT]:
    """Draw records of a type within the bounds that its fields declare."""
    return _of_type(inspect.type_info(record_type)).map(lambda value: msgspec.convert(value, record_type))


def _of_type(kind: inspect.Type) -> SearchStrategy[object]:
    match kind:
        case inspect.StructType():
            return _struct(kind)
        case inspect.UnionType(types=types):
            return st.one_of([_of_type(choice) for choice in types])
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return st.lists(_of_type(item), min_size=low or 0, max_size=_at_most(high, low, ITEMS_DRAWN_MAX)).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*[_of_type(item) for item in items])
        case _:
            return _scalar(kind)


def _scalar(kind: inspect.Type) -> SearchStrategy[object]:
    match kind:
        case inspect.IntType(ge=low, le=high):
            return st.integers(min_value=low, max_value=high)
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=_at_most(high, low, BYTES_DRAWN_MAX))
        case inspect.StrType(min_length=low, max_length=high):
            text = st.characters(codec="utf-8")
            return st.text(text, min_size=low or 0, max_size=_at_most(high, low, BYTES_DRAWN_MAX))
        case inspect.EnumType(cls=choices):
            return st.sampled_from([choice.value for choice in choices])
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case _:
            raise AssertionError(f"no strategy for {kind}")


def _struct(kind: inspect.StructType) -> SearchStrategy[object]:
    fields = st.tuples(*[_of_type(item.type) for item in kind.fields])
    return fields.map(lambda values: values if kind.tag is None else (kind.tag, *values))


def _at_most(high: int | None, low: int | None, drawn_max: int) -> int:
    return max(low or 0, drawn_max if high is None else min(high, drawn_max))
