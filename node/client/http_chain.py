"""The chain over HTTP: any live node will do, another is asked when one fails.

Answers used (JSON; bytes as lower-case hex; unknown fields are ignored):

    GET  /v1/status                         {"height": 12, ...}
    POST /v1/transactions?wait_s=1          as below once a block carries it in time, else 202 {"transaction_id"};
                                            refused: 4xx {"error": reason, "detail": ...}
    POST /v1/transactions/many?wait_s=1     {"posted": [{"carried": null or as below, "refused": null or {"error",
                                            "detail"}}, ...]} in the order posted
    GET  /v1/transactions/ID?wait_s=20      {"transaction_id", "height", "refusal": null or reason,
                                             "failed_entries": [[position, reason], ...]}; 404 while it waits
    POST /v1/entries/find                   {"tenant", "names": [[bucket, name], ...]}: {"entries": [null or {"bucket",
                                             "name", "version_id", "record_address",
                                             "references": [{"segment_id", "offset", "bytes"}, ...]}, ...]}, of the
                                            first names alone when their references are many
    GET  /v1/entries?tenant=&bucket=&after=&limit=
                                            {"entries": [as above, ...]} in order of tags; `after` = BUCKET.NAME
    POST /v1/versions/find, GET /v1/versions, POST /v1/buckets/find, GET /v1/buckets, GET /v1/changes
                                            the same of versions and buckets (http_answers.py)
    POST /v1/segments/find                  {"segment_ids": [...]}: {"segments": [null or {"segment_id", "k", "bytes",
                                             "roots": [...], "receipted": [column, ...]}, ...]}
    GET  /v1/proofs/state/KEY?raw=1         the canonical StateProof (storage/proofs.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import httpx
import msgspec
import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, TransactionId
from node.client.chain import AT_LEAST, NEWS_ABOVE, Changes, ListingPlace, VersionPlace
from node.client.errors import ChangesForgottenError
from node.client.http_answers import (
    AnswerT,
    BucketsAnswer,
    ChangesAnswer,
    CommitAnswer,
    EntriesAnswer,
    EntryAnswer,
    ErrorAnswer,
    FoundBucketsAnswer,
    FoundEntriesAnswer,
    FoundSegmentsAnswer,
    PostedAnswer,
    PostedManyAnswer,
    StatusAnswer,
    bucket_of,
    bytes_of,
    commit_of,
    entry_of,
    segment_of,
)
from node.errors import PeerUnreachableError
from node.submission import SUBMISSIONS_MAX, Submission, Submissions, encode_submission, encode_submissions
from storage.identifiers import (
    BucketTag,
    NameTag,
    SegmentId,
    TenantId,
)
from storage.transactions import transaction_id as id_of_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from node.client.chain import BucketView, Commit, EntryView, SegmentView

StructT = TypeVar("StructT", bound=msgspec.Struct)

ANSWER_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 10
"""How long a node is asked to hold a question for a transaction that is not carried yet."""
COMMIT_SECONDS: Final = 60.0
"""Without a commit in this time the write fails; whether it will happen is then unknown."""
RESUBMIT_SECONDS: Final = 2.0
"""A node that took a transaction may die with it: it is handed to another after so long without an answer."""
ATTEMPT_ROUNDS: Final = 3
DRIBBLE_SECONDS: Final = 60.0
"""What a node may take beyond its time as long as bytes come: a large answer over a slow line."""
ANSWER_BYTES_MAX: Final = 17 * 1024 * 1024
"""A node answers at most 16 MiB (docs/api.md)."""
SUBMIT_WAIT_SECONDS: Final = 1.0
"""How long a node is asked to hold a submission for its block: one question instead of two for nearly all."""
MANY_BYTES_MAX: Final = 1024 * 1024
"""Of transactions and records in one request, besides a first that is larger."""
SUBMISSION_OVERHEAD_BYTES: Final = 16
UNAVAILABLE: Final = "unavailable"
"""Whatever a node could not do at this moment: another may."""
ACCEPTED: Final = 202
NOT_FOUND: Final = 404
REFUSED_FROM: Final = 400
FAILED_FROM: Final = 500


class HttpChain:
    """Implements Chain."""

    def __init__(self, nodes: Sequence[str], tenant: TenantId, http: httpx.AsyncClient) -> None:
        """Ask these nodes (base URLs), the last one that answered first."""
        assert nodes, "a client knows at least one node"
        self._nodes = list(nodes)
        self._tenant = tenant
        self._http = http
        self._unfinished: dict[TransactionId, bytes] = {}
        self._committed: dict[TransactionId, Commit] = {}
        """Until wait() takes it, as submit_and_wait() does at once."""
        self.at_least = Height(0)
        """No node that is below this height is believed; a gateway raises it with each fence."""

    async def tip_height(self) -> Height:
        """Return the height of a live node's chain."""
        path = "/v1/status"
        return Height(self._read(path, await self._ask("GET", path, None), StatusAnswer).height)

    async def submit(self, transaction: bytes, records: Sequence[bytes]) -> TransactionId:
        """Hand a transaction to a node, which usually answers with its outcome; wait() then has it already."""
        body = encode_submission(Submission(transaction=transaction, records=tuple(records)))
        transaction_id = id_of_transaction(transaction)
        path = f"/v1/transactions?wait_s={SUBMIT_WAIT_SECONDS}"
        response = await self._ask("POST", path, body, SUBMIT_WAIT_SECONDS + ANSWER_SECONDS)
        if response.status_code == ACCEPTED:
            self._unfinished[transaction_id] = body
        else:
            self._committed[transaction_id] = commit_of(self._read(path, response, CommitAnswer))
        return transaction_id

    async def submit_many(self, submissions: Sequence[Submission]) -> list[Commit | RejectionError | None]:
        """Hand transactions to a node; what became of each, None for one that waits still: wait() for it."""
        found: list[Commit | RejectionError | None] = []
        for together in _fitting(submissions):
            body = encode_submissions(Submissions(submissions=together))
            path = f"/v1/transactions/many?wait_s={SUBMIT_WAIT_SECONDS}"
            response = await self._ask("POST", path, body, SUBMIT_WAIT_SECONDS + ANSWER_SECONDS)
            posted = self._read(path, response, PostedManyAnswer).posted
            if len(posted) != len(together):
                raise self._other_number(path)
            found += [self._outcome(*pair) for pair in zip(together, posted, strict=True)]
        return found

    def _outcome(self, submission: Submission, posted: PostedAnswer) -> Commit | RejectionError | None:
        if posted.refused is not None and posted.refused.error != UNAVAILABLE:
            return _refusal_of(posted.refused)
        if posted.carried is not None:
            return commit_of(posted.carried)
        self._unfinished[id_of_transaction(submission.transaction)] = encode_submission(submission)
        return None

    async def wait(self, transaction_id: TransactionId) -> Commit:
        """Wait until the chain carries the transaction, handing it to other nodes meanwhile."""
        committed = self._committed.pop(transaction_id, None)
        if committed is not None:
            return committed
        path = f"/v1/transactions/{transaction_id.hex()}?wait_s={WAIT_SECONDS}"
        deadline = trio.current_time() + COMMIT_SECONDS
        try:
            while trio.current_time() < deadline:
                found = await self._ask_briefly(path)
                if found is not None:
                    return commit_of(found)
                await self._hand_on(transaction_id)
        finally:
            self._unfinished.pop(transaction_id, None)
        detail = f"transaction {transaction_id.hex()[:16]} is not on chain after {COMMIT_SECONDS:.0f} s; it may come"
        raise PeerUnreachableError(detail)

    async def find_entries(self, places: Sequence[ListingPlace]) -> tuple[EntryView | None, ...]:
        """Return entries of the tenant, None where there is none; asks again for what did not fit one answer."""
        names = [(place.bucket_tag.hex(), place.name_tag.hex()) for place in places]
        return await self._find("/v1/entries/find", names)

    async def entries(
        self, bucket_tag: BucketTag | None, after: ListingPlace | None, entries_max: int
    ) -> tuple[EntryView, ...]:
        """Return entries of the tenant in order of tags."""
        path = f"/v1/entries?tenant={self._tenant.hex()}&limit={entries_max}"
        if bucket_tag is not None:
            path += f"&bucket={bucket_tag.hex()}"
        if after is not None:
            path += f"&after={after.bucket_tag.hex()}.{after.name_tag.hex()}"
        answer = self._read(path, await self._ask("GET", path, None), EntriesAnswer)
        return tuple(entry_of(entry) for entry in answer.entries)

    async def find_versions(self, places: Sequence[VersionPlace]) -> tuple[EntryView | None, ...]:
        """Return versions, current ones or older, None where there is none."""
        names = [(place.bucket_tag.hex(), place.name_tag.hex(), place.version_name.hex()) for place in places]
        return await self._find("/v1/versions/find", names)

    async def versions(
        self, bucket_tag: BucketTag | None, after: VersionPlace | None, versions_max: int
    ) -> tuple[EntryView, ...]:
        """Return versions that are not current."""
        path = f"/v1/versions?tenant={self._tenant.hex()}&limit={versions_max}"
        if bucket_tag is not None:
            path += f"&bucket={bucket_tag.hex()}"
        if after is not None:
            path += f"&after={after.bucket_tag.hex()}.{after.name_tag.hex()}.{after.version_name.hex()}"
        answer = self._read(path, await self._ask("GET", path, None), EntriesAnswer)
        return tuple(entry_of(entry) for entry in answer.entries)

    async def find_buckets(self, bucket_tags: Sequence[BucketTag]) -> tuple[BucketView | None, ...]:
        """Return buckets of the tenant, None where there is none."""
        tags = [bucket_tag.hex() for bucket_tag in bucket_tags]
        question = msgspec.json.encode({"tenant": self._tenant.hex(), "buckets": tags})
        found = (await self._post("/v1/buckets/find", question, FoundBucketsAnswer)).buckets
        if len(found) != len(tags):
            raise self._other_number("/v1/buckets/find")
        return tuple(None if bucket is None else bucket_of(bucket) for bucket in found)

    async def buckets(self, after: BucketTag | None, buckets_max: int) -> tuple[BucketView, ...]:
        """Return buckets of the tenant in order of tags."""
        path = f"/v1/buckets?tenant={self._tenant.hex()}&limit={buckets_max}"
        if after is not None:
            path += f"&after={after.hex()}"
        answer = self._read(path, await self._ask("GET", path, None), BucketsAnswer)
        return tuple(bucket_of(bucket) for bucket in answer.buckets)

    async def changes(self, above: Height, held_seconds: float = 0.0) -> Changes:
        """Return which objects of the tenant blocks above a height have named; held until there is a block."""
        path = f"/v1/changes?tenant={self._tenant.hex()}&above={above}"
        headers = {NEWS_ABOVE: str(above)} if held_seconds else {}
        response = await self._ask("GET", path, None, held_seconds + ANSWER_SECONDS, headers)
        if response.status_code == NOT_FOUND:
            raise ChangesForgottenError(f"{self._nodes[0]} has pruned blocks above {above}: list everything anew")
        answer = self._read(path, response, ChangesAnswer)
        objects = (
            ListingPlace(BucketTag(bytes_of(bucket)), NameTag(bytes_of(name))) for bucket, name in answer.objects
        )
        return Changes(Height(answer.height), tuple(objects))

    async def find_segments(self, segment_ids: Sequence[SegmentId]) -> tuple[SegmentView | None, ...]:
        """Return segments, None where there is none."""
        question = msgspec.json.encode({"segment_ids": [segment_id.hex() for segment_id in segment_ids]})
        found = (await self._post("/v1/segments/find", question, FoundSegmentsAnswer)).segments
        if len(found) != len(segment_ids):
            raise self._other_number("/v1/segments/find")
        return tuple(None if segment is None else segment_of(segment) for segment in found)

    async def question(self, path: str, kind: type[StructT]) -> StructT | None:
        """Return what a node answers to a question of another kind, None when it knows nothing by that name."""
        response = await self._ask("GET", path, None)
        if response.status_code == NOT_FOUND:
            return None
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise PeerUnreachableError(f"{self._nodes[0]}{path} answered something else: {error}") from error

    async def member_changes(self) -> tuple[bytes, ...]:
        """Return the encoded proof of each change of members since genesis; what is cut off is no proof."""
        rest = (await self._ask("GET", "/v1/raw/members", None)).content
        found: list[bytes] = []
        while rest:
            end = 4 + int.from_bytes(rest[:4], "big")
            found.append(rest[4:end])
            rest = rest[end:]
        return tuple(found)

    async def proof(self, state_key: bytes) -> bytes:
        """Return an encoded StateProof of a state key."""
        response = await self._ask("GET", f"/v1/proofs/state/{state_key.hex()}?raw=1", None)
        return response.content

    async def _find(self, path: str, names: Sequence[tuple[str, ...]]) -> tuple[EntryView | None, ...]:
        found: list[EntryAnswer | None] = []
        while len(found) < len(names):
            question = msgspec.json.encode({"tenant": self._tenant.hex(), "names": names[len(found) :]})
            answered = (await self._post(path, question, FoundEntriesAnswer)).entries
            if not 0 < len(answered) <= len(names) - len(found):
                raise self._other_number(path)
            found += answered
        return tuple(None if entry is None else entry_of(entry) for entry in found)

    async def _ask_briefly(self, path: str) -> CommitAnswer | None:
        found: list[CommitAnswer] = []
        with trio.move_on_after(RESUBMIT_SECONDS):
            answer = await self._get(path, CommitAnswer, WAIT_SECONDS + ANSWER_SECONDS)
            found += [] if answer is None else [answer]
        return found[0] if found else None

    async def _hand_on(self, transaction_id: TransactionId) -> None:
        body = self._unfinished.get(transaction_id)
        self._nodes.append(self._nodes.pop(0))
        if body is None:
            return
        try:
            await self._ask("POST", "/v1/transactions", body)
        except (RejectionError, PeerUnreachableError):
            # Known there already, or carried meanwhile: the next question tells.
            return

    async def _get(self, path: str, kind: type[AnswerT], seconds: float = ANSWER_SECONDS) -> AnswerT | None:
        response = await self._ask("GET", path, None, seconds)
        return None if response.status_code == NOT_FOUND else self._read(path, response, kind)

    async def _post(self, path: str, question: bytes, kind: type[AnswerT]) -> AnswerT:
        return self._read(path, await self._ask("POST", path, question), kind)

    def _read(self, path: str, response: httpx.Response, kind: type[AnswerT]) -> AnswerT:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise PeerUnreachableError(f"{self._nodes[0]}{path} answered something else: {error}") from error

    def _other_number(self, path: str) -> PeerUnreachableError:
        return PeerUnreachableError(f"{self._nodes[0]}{path} answered another number than was asked for")

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float = ANSWER_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Ask one node after the other, the one that answered last first.

        Raises:
            RejectionError: A node refused, with its reason.
            PeerUnreachableError: None answers.
        """
        reason = ""
        for _ in range(ATTEMPT_ROUNDS * len(self._nodes)):
            request = self._http.build_request(
                method,
                self._nodes[0] + path,
                content=body,
                timeout=seconds,
                headers={**(headers or {}), **({AT_LEAST: str(self.at_least)} if self.at_least else {})},
            )
            try:
                response = await _answered(self._http, request, seconds + DRIBBLE_SECONDS)
            except httpx.HTTPError as error:
                reason = f"{self._nodes[0]}: {type(error).__name__} {error}"
            else:
                if response.status_code < FAILED_FROM:
                    raise_refusal(response)
                    return response
                reason = f"{self._nodes[0]}: status {response.status_code}"
            self._nodes.append(self._nodes.pop(0))
        raise PeerUnreachableError(f"none of {len(self._nodes)} nodes answers (the last: {reason})")


async def _answered(http: httpx.AsyncClient, request: httpx.Request, seconds: float) -> httpx.Response:
    """Return a whole answer; raises httpx.HTTPError, also for one that does not end."""
    with trio.move_on_after(seconds) as scope:
        streamed = await http.send(request, stream=True)
        body = bytearray()
        try:
            async for piece in streamed.aiter_bytes():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    scope.cancel()  # the iterators below end at their own waits, and in order
        finally:
            with trio.CancelScope(shield=True):
                await streamed.aclose()
        if len(body) <= ANSWER_BYTES_MAX:
            return httpx.Response(streamed.status_code, content=bytes(body))
    raise httpx.ReadTimeout(f"no whole answer of at most {ANSWER_BYTES_MAX} bytes in {seconds:.0f} s", request=request)


def raise_refusal(response: httpx.Response) -> None:
    """Raise RejectionError when a node refuses, with its reason; 404 is an answer."""
    if response.status_code < REFUSED_FROM or response.status_code == NOT_FOUND:
        return
    try:
        answer = msgspec.json.decode(response.content, type=ErrorAnswer)
    except (msgspec.DecodeError, msgspec.ValidationError):
        detail = response.text[:200] or f"status {response.status_code}"
        raise RejectionError(RejectionReason.MALFORMED, detail) from None
    raise _refusal_of(answer)


def _refusal_of(answer: ErrorAnswer) -> RejectionError:
    try:
        return RejectionError(RejectionReason(answer.error), answer.detail)
    except ValueError:
        return RejectionError(RejectionReason.MALFORMED, f"{answer.error}: {answer.detail}")


def _fitting(submissions: Sequence[Submission]) -> Iterator[tuple[Submission, ...]]:
    """Give runs of submissions that fit one request each; one always does."""
    together: list[Submission] = []
    byte_count = 0
    for submission in submissions:
        added = SUBMISSION_OVERHEAD_BYTES + len(submission.transaction) + sum(map(len, submission.records))
        if together and (byte_count + added > MANY_BYTES_MAX or len(together) == SUBMISSIONS_MAX):
            yield tuple(together)
            together, byte_count = [], 0
        together.append(submission)
        byte_count += added
    if together:
        yield tuple(together)
