"""Versions, markers and their retention against a plain list per name, whatever is asked in whatever order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.identifiers import Milliseconds
from storage.buckets import (
    NULL_VERSION,
    EntryDetails,
    EntryKind,
    LockChange,
    NewHold,
    NewRetention,
    ObjectLock,
    Retention,
    RetentionMode,
    SetBucket,
    SetRetention,
    Versioning,
)
from storage.identifiers import RecordAddress, VersionId
from storage.ledger_versions import find_version, read_current
from storage.outcomes import FailureReason
from storage.state import (
    BucketState,
    EntryState,
    ObjectName,
    TenantState,
    bucket_state_key,
    decode_state,
    read_state,
    tenant_key,
)
from storage.stores.listings import list_versions
from storage.transactions import DeleteEntries, EntryName, Extent
from tests.storage.ledger_world import BUCKET, TENANT, World, entry, name_tag

NAMES = st.sampled_from("ab")
MODES = st.sampled_from(list(RetentionMode))


@dataclass(slots=True)
class Version:
    """What the model knows of one version."""

    version_id: VersionId
    kind: EntryKind
    is_null: bool
    mode: RetentionMode | None = None
    until_ms: int = 0
    is_held: bool = False

    @property
    def named(self) -> VersionId:
        return NULL_VERSION if self.is_null else self.version_id

    def is_retained(self, now_ms: int, *, bypass: bool) -> bool:
        is_running = self.mode is not None and self.until_ms > now_ms
        return self.is_held or (is_running and not (bypass and self.mode is RetentionMode.GOVERNANCE))


class VersionsMachine(RuleBasedStateMachine):
    """One bucket; the model keeps the versions of each name, newest first."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(seats=1)
        self.versioning = Versioning.OFF
        self.is_locked = False
        self.names: dict[str, list[Version]] = {"a": [], "b": []}
        self.number = 0
        self._set(Versioning.OFF, None)

    def _set(self, versioning: Versioning, lock: ObjectLock | None) -> FailureReason | None:
        self.number += 1
        body = SetBucket(
            tenant=TENANT,
            bucket_tag=BUCKET,
            version_id=VersionId(self.number.to_bytes(16, "big")),
            record_address=RecordAddress(self.number.to_bytes(32, "big")),
            versioning=versioning,
            lock=lock,
            condition=None,
        )
        return self.world.run(body).reason

    @rule(versioning=st.sampled_from(list(Versioning)), is_locked=st.booleans())
    def change_settings(self, versioning: Versioning, is_locked: bool) -> None:  # noqa: FBT001 (drawn)
        is_right = not (is_locked and versioning is not Versioning.ENABLED)
        is_kept = not (self.is_locked and not is_locked) and not (
            self.versioning is not Versioning.OFF and versioning is Versioning.OFF
        )
        reason = self._set(versioning, ObjectLock(default=None) if is_locked else None)
        assert reason is (None if is_right and is_kept else FailureReason.SETTINGS_KEPT)
        if reason is None:
            self.versioning, self.is_locked = versioning, is_locked

    @rule(name=NAMES, kind=st.sampled_from(list(EntryKind)), is_new=st.booleans())
    def put(self, name: str, kind: EntryKind, is_new: bool) -> None:  # noqa: FBT001 (drawn)
        self.number += 1
        is_marker = kind is EntryKind.MARKER
        made = entry(
            name,
            *(() if is_marker else (Extent(segment=0, extent_bytes=10),)),
            version=str(self.number),
            condition=b"" if is_new else None,
            details=EntryDetails(kind=kind, lock=None) if is_marker else None,
        )
        segments = () if is_marker else (self.world.segment(str(self.number)),)
        outcome = self.world.run(self.world.commit(segments, made))
        versions = self.names[name]
        if is_new and versions and versions[0].kind is EntryKind.OBJECT:
            expected = FailureReason.CONDITION_FAILED
        elif is_marker and self.versioning is Versioning.OFF:
            expected = FailureReason.VERSIONING_OFF
        else:
            expected = None
        assert [failed.reason for failed in outcome.failed_entries] == ([] if expected is None else [expected])
        if expected is None:
            is_null = self.versioning is not Versioning.ENABLED
            kept = [version for version in versions if not (is_null and version.is_null)]
            self.names[name] = [Version(made.version_id, kind, is_null), *kept]

    @rule(name=NAMES, place=st.integers(-1, 4), bypass=st.booleans())
    def delete(self, name: str, place: int, bypass: bool) -> None:  # noqa: FBT001 (drawn)
        versions = self.names[name]
        chosen = versions[place] if 0 <= place < len(versions) else None
        asked = None if place < 0 else (VersionId(b"?" * 16) if chosen is None else chosen.named)
        named = EntryName(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=asked)
        outcome = self.world.run(DeleteEntries(tenant=TENANT, entries=(named,), bypass_governance=bypass))
        if asked is None:
            chosen = versions[0] if versions else None
        expected = None
        if asked is None and self.versioning is not Versioning.OFF:
            expected = FailureReason.VERSION_NEEDED
        elif not versions or (chosen is None and self.versioning is not Versioning.OFF):
            expected = FailureReason.ENTRY_UNKNOWN
        elif chosen is None:
            expected = FailureReason.VERSION_CHANGED
        elif chosen.is_retained(self.world.tip.time_ms, bypass=bypass):
            expected = FailureReason.RETAINED
        assert [failed.reason for failed in outcome.failed_entries] == ([] if expected is None else [expected])
        if expected is None and chosen is not None:
            versions.remove(chosen)

    @precondition(lambda self: self.is_locked)
    @rule(name=NAMES, place=st.integers(0, 3), mode=st.none() | MODES, seconds=st.integers(1, 9), bypass=st.booleans())
    def retain(self, name: str, place: int, mode: RetentionMode | None, seconds: int, bypass: bool) -> None:  # noqa: FBT001 (drawn)
        chosen = self._object(name, place)
        if chosen is None:
            return
        until_ms = Milliseconds(self.world.tip.time_ms + seconds * 1_000)
        retention = None if mode is None else Retention(mode=mode, until_ms=until_ms)
        reason = self._change(name, chosen, NewRetention(retention=retention, bypass_governance=bypass))
        is_running = chosen.mode is not None and chosen.until_ms > self.world.tip.time_ms
        is_bypassed = bypass and chosen.mode is RetentionMode.GOVERNANCE
        is_weaker = mode is not chosen.mode or until_ms < chosen.until_ms
        assert reason is (FailureReason.RETAINED if is_running and not is_bypassed and is_weaker else None)
        if reason is None:
            chosen.mode, chosen.until_ms = mode, until_ms

    @precondition(lambda self: self.is_locked)
    @rule(name=NAMES, place=st.integers(0, 3), is_held=st.booleans())
    def hold(self, name: str, place: int, is_held: bool) -> None:  # noqa: FBT001 (drawn)
        chosen = self._object(name, place)
        if chosen is not None:
            assert self._change(name, chosen, NewHold(legal_hold=is_held)) is None
            chosen.is_held = is_held

    @rule()
    def wait(self) -> None:
        for _ in range(3):
            self.world.apply()

    def _object(self, name: str, place: int) -> Version | None:
        objects = [version for version in self.names[name] if version.kind is EntryKind.OBJECT]
        return objects[place] if place < len(objects) else None

    def _change(self, name: str, chosen: Version, change: NewRetention | NewHold) -> FailureReason | None:
        one = LockChange(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=chosen.named, change=change)
        outcome = self.world.run(SetRetention(tenant=TENANT, changes=(one,)))
        return outcome.failed_entries[0].reason if outcome.failed_entries else None

    def rows(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Implements StateRows."""
        found = sorted(row for row in self.world.state.values if row.startswith(prefix) and row > after)
        return [(row, self.world.state.values[row]) for row in found[:limit]]

    @invariant()
    def the_list_of_each_name_is_that_of_the_model(self) -> None:
        for name, versions in self.names.items():
            place = ObjectName(TENANT, BUCKET, name_tag(name))
            found = list[EntryState]()
            state = read_current(self.world.state, place)
            while state is not None:
                assert state.newer == (found[-1].version_name if found else None)
                found.append(state)
                state = None if state.older is None else find_version(self.world.state, place, state.older)
            assert [(s.version_id, s.kind, s.is_null) for s in found] == [
                (version.version_id, version.kind, version.is_null) for version in versions
            ]
            assert all((older.height, older.order) < (s.height, s.order) for s, older in pairwise(found))

    @invariant()
    def rows_and_counts_are_those_of_the_lists(self) -> None:
        older = list_versions(self, TENANT, BUCKET, after=None, limit=100)
        assert len(older) == sum(max(len(versions) - 1, 0) for versions in self.names.values())
        expected = sum(map(len, self.names.values()))
        bucket = read_state(self.world.state, bucket_state_key(TENANT, BUCKET), BucketState)
        tenant = read_state(self.world.state, tenant_key(TENANT), TenantState)
        assert bucket is not None
        assert tenant is not None
        assert bucket.entry_count == tenant.entry_count == expected
        objects = sum(v.kind is EntryKind.OBJECT for versions in self.names.values() for v in versions)
        segments = [row for row in self.world.state.values if row[:1] == b"x"]
        assert tenant.entry_bytes == 10 * objects
        assert tenant.segment_count == len(segments) == objects
        entries = [row for row in self.world.state.values if row[:1] in {b"e", b"v"}]
        assert len(entries) == expected
        assert all(decode_state(self.world.state.values[row], EntryState) for row in entries)


TestVersions = VersionsMachine.TestCase
TestVersions.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
