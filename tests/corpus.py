"""A fixed corpus of every record kind, and one hash per kind that freezes its encoding.

`python -m tests.corpus > tests/vectors/encodings.json` writes the hashes anew: do so only when a format is meant to
change, together with docs/formats.md. The corpus depends on a kind's declared fields and bounds and on nothing else:
no clock, no hash seed, no library's way of drawing examples.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import random
import sys
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import inspect

import consensus
import node
import storage
import testnet
from consensus.encoding import Record, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMS: Final = (consensus, storage, node, testnet)
EXAMPLES_PER_KIND: Final = 64
BYTES_DRAWN_MAX: Final = 80
ITEMS_DRAWN_MAX: Final = 3
LETTERS: Final = "az09 -.é€𝄞\0"
"""Text of one to four UTF-8 bytes a letter."""


def record_kinds() -> tuple[type[Record], ...]:
    """Return every record kind of the four rooms, by name."""
    for room in ROOMS:
        for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
            importlib.import_module(module.name)
    names = {room.__name__ for room in ROOMS}
    return tuple(sorted((kind for kind in _below(Record) if kind.__module__.split(".")[0] in names), key=kind_name))


def kind_name(kind: type[Record]) -> str:
    """Return the name under which a kind stands in the file of hashes."""
    return f"{kind.__module__}.{kind.__name__}"


def example(kind: type[Record], number: int) -> Record:
    """Return one record of the corpus: numbers below two draw every bound's least and greatest value."""
    choice = random.Random(f"{kind_name(kind)} {number}")
    return msgspec.convert(_draw(inspect.type_info(kind), choice, number), kind)


def corpus_hash(kind: type[Record]) -> str:
    """Return SHA-256 over the lengths and bytes of a kind's examples."""
    digest = hashlib.sha256()
    for number in range(EXAMPLES_PER_KIND):
        encoded = encode(example(kind, number))
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def corpus_text() -> str:
    """Return the whole file of hashes."""
    return json.dumps({kind_name(kind): corpus_hash(kind) for kind in record_kinds()}, indent=1) + "\n"


def _below(kind: type[Record]) -> Iterator[type[Record]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _draw(kind: inspect.Type, choice: random.Random, number: int) -> object:
    match kind:
        case inspect.StructType(fields=fields, tag=tag):
            values = tuple(_draw(item.type, choice, number) for item in fields)
            return values if tag is None else (tag, *values)
        case inspect.UnionType(types=types):
            return _draw(types[number % len(types)], choice, number)
        case inspect.TupleType(item_types=items):
            return tuple(_draw(item, choice, number) for item in items)
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            count = _between(low or 0, _at_most(high, low, ITEMS_DRAWN_MAX), choice, number)
            return tuple(_draw(item, choice, number) for _ in range(count))
        case inspect.IntType(ge=low, le=high):
            assert low is not None, "every number has a bound"
            assert high is not None, "every number has a bound"
            return _between(low, high, choice, number)
        case _:
            return _draw_plain(kind, choice, number)


def _draw_plain(kind: inspect.Type, choice: random.Random, number: int) -> object:
    match kind:
        case inspect.BytesType(min_length=low, max_length=high):
            return choice.randbytes(_between(low or 0, _at_most(high, low, BYTES_DRAWN_MAX), choice, number))
        case inspect.StrType(min_length=low, max_length=high):
            count = _between(low or 0, _at_most(high, low, BYTES_DRAWN_MAX), choice, number)
            return "".join(choice.choice(LETTERS) for _ in range(count))
        case inspect.EnumType(cls=choices):
            return choice.choice([member.value for member in choices])
        case inspect.BoolType():
            return choice.choice((False, True))
        case inspect.NoneType():
            return None
        case _:
            raise AssertionError(f"no example of {kind}: teach tests/corpus.py")


def _between(low: int, high: int, choice: random.Random, number: int) -> int:
    """Return the least, then the greatest, then lengths of every order of magnitude."""
    if number < len((low, high)):
        return (low, high)[number]
    return low + (choice.randrange(high - low + 1) >> choice.randrange(max((high - low).bit_length(), 1)))


def _at_most(high: int | None, low: int | None, drawn_max: int) -> int:
    return max(low or 0, drawn_max if high is None else min(high, drawn_max))


if __name__ == "__main__":
    sys.stdout.write(corpus_text())
