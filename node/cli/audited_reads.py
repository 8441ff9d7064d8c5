"""`grandest audit reads`: what members signed for what they read of each other, compared with what they vouched for.

A seat that stores nothing passes proofs of possession by fetching k leaves of others' columns for each that it is asked
for. The holders keep its signatures for them: rule S67.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode
from node.cli.asked_node import LENGTH_BYTES, add_node_options, ask, fetch, node_addresses, open_node, parts
from node.cli.output import Json, Progress, bytes_text, note, one_line, print_json, print_line, print_table
from node.cli.parser import Commands, add_json_option, new_command, node_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from consensus.identifiers import GenesisHash
    from storage.identifiers import ColumnIndex, SeatIndex, SegmentId
    from storage.placement import Placement
    from storage.read_receipts import ReadAudit, ReaderTally
    from storage.state import SeatState


FILES_MAX: Final = 1_024
"""One an epoch and start of a node, of four epochs: more come from a node that makes them up."""
KEPT_BYTES_MAX: Final = 1 << 30
"""Of one holder: 64 MiB each of sixteen readers."""


def add_reads(actions: Commands) -> None:
    """Mount `audit reads`."""
    reads = new_command(actions, "reads", "show who read what of whom; exit 1 if a seat answers with others' columns")
    add_node_options(reads)
    reads.add_argument(
        "--also", action="append", type=node_address, default=[], metavar="URL", help="the API of another holder"
    )
    add_json_option(reads)
    reads.set_defaults(run=run_reads)


def run_reads(arguments: Namespace) -> int:
    """Gather the receipts of all holders that answer, check them, and print what each reader comes to."""
    addresses = (*node_addresses(arguments), *arguments.also)
    with open_node(addresses) as (http, _):
        seats = _seats(http)
        audits, asked = _gather(addresses, _genesis_hash(http), seats)
        tallies = {seat: _tally(http, seats, seat, audit) for seat, audit in sorted(audits.items())}
    if arguments.json:
        print_json(_json(tallies, asked))
    else:
        _print(seats, tallies, asked, len(addresses))
    has_found = any(tally.fetches_its_answers for tally in tallies.values())
    return ExitCode.FAILED if has_found else ExitCode.DONE


def _seats(http: httpx.Client) -> tuple[SeatState, ...]:
    from storage.membership import decode_seats

    return decode_seats(fetch(http, "/v1/raw/seats"))


def _genesis_hash(http: httpx.Client) -> GenesisHash:
    from consensus.genesis import decode_genesis, genesis_hash

    return genesis_hash(decode_genesis(fetch(http, "/v1/raw/genesis")))


def _gather(
    addresses: tuple[str, ...], genesis_hash: GenesisHash, seats: tuple[SeatState, ...]
) -> tuple[dict[SeatIndex, ReadAudit], int]:
    """Return the checked receipts by reader, and how many holders gave theirs."""
    import httpx

    from consensus.errors import GrandestError
    from node.cli.asked_node import ANSWER_SECONDS
    from storage.identifiers import SeatIndex
    from storage.read_receipts import ReadAudit, check_read, decode_read

    by_key = {seat.seat.network_key: SeatIndex(number) for number, seat in enumerate(seats)}
    audits: dict[SeatIndex, ReadAudit] = {seat: ReadAudit() for seat in by_key.values() if seats[seat].closed is None}
    seen = set[bytes]()
    asked = 0
    with Progress("holders asked", len(addresses)) as progress:
        for address in dict.fromkeys(addresses):
            progress.advance(1)
            try:
                with httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False) as http:
                    for encoded in kept_receipts(http):
                        receipt = decode_read(encoded)
                        check_read(receipt, genesis_hash)
                        reader = by_key.get(receipt.reader)
                        if reader is not None and reader in audits and receipt.signature not in seen:
                            seen.add(receipt.signature)
                            audits[reader].add(receipt)
                asked += 1
            except GrandestError as error:
                note(one_line(f"grandest: {address} is left out: {error}"))
    return audits, asked


def kept_receipts(http: httpx.Client) -> Iterator[bytes]:
    """Give what a holder keeps; the end of its newest file may be cut.

    Raises:
        PeerUnreachableError: It gives more than anybody keeps, or what holds no receipts.
    """
    from node.api.reads import ReadsAnswer
    from node.errors import PeerUnreachableError
    from storage.read_receipts import RECEIPT_BYTES_MAX

    byte_count = 0
    for kept in ask(http, "/v1/reads", ReadsAnswer).files[:FILES_MAX]:
        offset, rest = 0, b""
        while page := fetch(http, f"/v1/reads/{kept.name}?from={offset}"):
            offset += len(page)
            byte_count += len(page)
            frames = whole_frames(rest + page)
            yield from parts(frames)
            rest = (rest + page)[len(frames) :]
            if len(rest) > LENGTH_BYTES + RECEIPT_BYTES_MAX or byte_count > KEPT_BYTES_MAX:
                raise PeerUnreachableError(f"{http.base_url}/v1/reads: more than anybody keeps")


def whole_frames(contents: bytes) -> bytes:
    """Return the frames that are there whole: a power cut may have left a part of the last."""
    end = 0
    while end + LENGTH_BYTES <= len(contents):
        after = end + LENGTH_BYTES + int.from_bytes(contents[end : end + LENGTH_BYTES], "big")
        if after > len(contents):
            break
        end = after
    return contents[:end]


def _tally(http: httpx.Client, seats: tuple[SeatState, ...], reader: SeatIndex, audit: ReadAudit) -> ReaderTally:
    """Compare what a seat read with what the chain says that it has vouched for."""
    from storage.membership import placement_of

    return audit.tally(_live(http, placement_of(seats), reader, audit.segment_ids()))


def _live(
    http: httpx.Client, placement: Placement, reader: SeatIndex, segment_ids: tuple[SegmentId, ...]
) -> Iterator[tuple[SegmentId, int, int, ColumnIndex | None]]:
    """Give those of the segments that live: k, leaves of a column, and which column the reader has vouched for."""
    from consensus.identifiers import Height
    from node.api.answers import FoundSegmentsAnswer
    from node.cli.asked_node import read_answer
    from node.client.chain import FOUND_MAX
    from storage.placement import column_of
    from storage.segments import SegmentShape

    path = "/v1/segments/find"
    for start in range(0, len(segment_ids), FOUND_MAX):
        some = segment_ids[start : start + FOUND_MAX]
        encoded = _post(http, path, {"segment_ids": [segment_id.hex() for segment_id in some]})
        found = read_answer(http, path, encoded, FoundSegmentsAnswer).segments
        for segment_id, segment in zip(some, found, strict=False):
            if segment is None:
                continue
            column = column_of(segment_id, reader, Height(segment.height), placement)
            own = column if column is not None and column in segment.receipted else None
            yield segment_id, segment.k, SegmentShape(segment.bytes, segment.k, len(segment.roots)).leaves, own


def _post(http: httpx.Client, path: str, question: Json) -> bytes:
    import httpx

    from node.errors import PeerUnreachableError

    try:
        return http.post(path, json=question).raise_for_status().content
    except httpx.HTTPError as error:
        raise PeerUnreachableError(f"{http.base_url}{path}: {error}") from error


def _json(tallies: dict[SeatIndex, ReaderTally], asked: int) -> Json:
    return {
        "holders": asked,
        "readers": [
            {
                "seat": seat,
                "questions": tally.questions,
                "leaves": tally.leaves,
                "segments_rebuilt": tally.segments_rebuilt,
                "leaves_rebuilt": tally.leaves_rebuilt,
                "fetches_its_answers": tally.fetches_its_answers,
            }
            for seat, tally in tallies.items()
        ],
    }


def _print(seats: tuple[SeatState, ...], tallies: dict[SeatIndex, ReaderTally], asked: int, addressed: int) -> None:
    from storage.identifiers import LEAF_BYTES

    rows = [
        [
            str(seat),
            seats[seat].seat.operator,
            str(tally.questions),
            bytes_text(tally.leaves * LEAF_BYTES),
            str(tally.segments_rebuilt),
            str(tally.leaves_rebuilt),
            "answers with others' columns" if tally.fetches_its_answers else "",
        ]
        for seat, tally in tallies.items()
    ]
    print_line(f"receipts of {asked} of {addressed} holders, of the last four epochs at most")
    print_table(["seat", "operator", "questions", "read", "columns rebuilt", "leaves rebuilt alone", "standing"], rows)
