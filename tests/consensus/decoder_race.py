"""Threads that read records around a shared record for the first time, all at once; a process of its own: it may crash.

Run by test_encoding.py. Prints how many records were read, one count.
"""

from __future__ import annotations

import sys
import threading
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from consensus.encoding import Record, decode, encode

ROUNDS: Final = 60
THREADS: Final = 4
FIELDS: Final = 30


def shared_record() -> type[Record]:
    """Return a new record type whose fields take long to read about."""
    fields: list[tuple[str, object]] = [
        (f"field_{index}", Annotated[int, Meta(ge=0, le=1_000 + index)]) for index in range(FIELDS)
    ]
    return new_record("Shared", fields)


def new_record(name: str, fields: list[tuple[str, object]]) -> type[Record]:
    """Return a record type that no decoder has seen."""
    made = msgspec.defstruct(
        name, cast("list[tuple[str, type]]", fields), bases=(Record,), frozen=True, array_like=True, kw_only=True
    )
    return cast("type[Record]", made)


def main() -> None:
    """Race THREADS threads ROUNDS times."""
    sys.setswitchinterval(1e-6)
    read: list[Record] = []
    for _ in range(ROUNDS):
        shared = shared_record()
        values = {"inner": shared(**{f"field_{index}": index for index in range(FIELDS)})}
        start = threading.Barrier(THREADS)

        def race(around: type[Record], encoded: bytes, start: threading.Barrier = start) -> None:
            start.wait()
            read.append(decode(encoded, around, bytes_max=1_000))

        threads: list[threading.Thread] = []
        for number in range(THREADS):
            around = new_record(f"Around{number}", [("inner", shared)])
            threads.append(threading.Thread(target=race, args=(around, encode(around(**values)))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sys.stdout.write(f"{len(read)}\n")


if __name__ == "__main__":
    main()
