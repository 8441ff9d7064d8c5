"""Versions of one object in the ledger's state: a list, newest first, whose head is the current version.

    "e" tenant bucket name            the current version; `older` names the next
    "v" tenant bucket name version    each of the others; `newer` and `older` name its neighbours

So the one that becomes current when another goes is found without a search, and no operation touches more than three
rows, however many versions there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from storage.buckets import NULL_VERSION, Governance, RetentionMode
from storage.outcomes import FailedTransactionError, FailureReason
from storage.state import EntryState, ObjectName, StateOverlay, StateReader, entry_key, read_state, version_key

if TYPE_CHECKING:
    from consensus.identifiers import Milliseconds
    from storage.buckets import Retention
    from storage.identifiers import VersionId


def read_current(reader: StateReader, place: ObjectName) -> EntryState | None:
    """Return the current version or marker of an object."""
    return read_state(reader, entry_key(place.tenant, place.bucket_tag, place.name_tag), EntryState)


def find_version(reader: StateReader, place: ObjectName, named: VersionId) -> EntryState | None:
    """Return a version wherever it lies; NULL_VERSION finds the null one, whose own id finds it too."""
    current = read_current(reader, place)
    if current is None:
        return None
    if named in {current.version_name, current.version_id}:
        return current
    found = _read_older(reader, place, named)
    if found is None:
        null = _read_older(reader, place, NULL_VERSION)
        found = null if null is not None and null.version_id == named else None
    return found


def existing_version(reader: StateReader, place: ObjectName, named: VersionId) -> EntryState:
    """Return a version wherever it lies or raise FailedTransactionError(ENTRY_UNKNOWN)."""
    found = find_version(reader, place, named)
    if found is None:
        raise FailedTransactionError(FailureReason.ENTRY_UNKNOWN)
    return found


def push_version(overlay: StateOverlay, place: ObjectName, state: EntryState, current: EntryState | None) -> None:
    """Write a new current version above what is current."""
    if current is None:
        _write(overlay, place, replace(state, older=None, newer=None))
        return
    _write_older(overlay, place, replace(current, newer=state.version_name))
    _write(overlay, place, replace(state, older=current.version_name, newer=None))


def replace_current(overlay: StateOverlay, place: ObjectName, state: EntryState, current: EntryState) -> None:
    """Write a new current version in the place, and under the name, of the one that goes."""
    assert state.version_name == current.version_name, "the older version knows its neighbour by name"
    _write(overlay, place, replace(state, older=current.older, newer=None))


def change_version(overlay: StateOverlay, place: ObjectName, state: EntryState) -> None:
    """Write a version again where it lies."""
    if state.newer is None:
        _write(overlay, place, state)
    else:
        _write_older(overlay, place, state)


def remove_version(overlay: StateOverlay, place: ObjectName, state: EntryState) -> None:
    """Take a version out of the list; when it was the current one, the next becomes it."""
    if state.newer is None:
        _promote(overlay, place, state)
        return
    overlay.delete(_older_key(place, state.version_name))
    newer = find_version(overlay, place, state.newer)
    assert newer is not None, "a neighbour exists"
    change_version(overlay, place, replace(newer, older=state.older))
    if state.older is not None:
        older = _read_older(overlay, place, state.older)
        assert older is not None, "a neighbour exists"
        _write_older(overlay, place, replace(older, newer=state.newer))


def _promote(overlay: StateOverlay, place: ObjectName, current: EntryState) -> None:
    if current.older is None:
        overlay.delete(entry_key(place.tenant, place.bucket_tag, place.name_tag))
        return
    following = _read_older(overlay, place, current.older)
    assert following is not None, "the next version exists"
    overlay.delete(_older_key(place, current.older))
    _write(overlay, place, replace(following, newer=None))


def check_free(state: EntryState, now_ms: Milliseconds, governance: Governance = Governance.OBEYED) -> None:
    """Refuse to destroy or change a version that is retained (T24) by FailedTransactionError(RETAINED)."""
    if state.lock is None:
        return
    retention = running_retention(state, now_ms)
    is_bypassed = governance is Governance.BYPASSED and retention is not None
    if is_bypassed and retention is not None and retention.mode is RetentionMode.GOVERNANCE:
        retention = None
    if state.lock.legal_hold or retention is not None:
        raise FailedTransactionError(FailureReason.RETAINED)


def running_retention(state: EntryState, now_ms: Milliseconds) -> Retention | None:
    """Return the retention that a version still has at this time."""
    retention = None if state.lock is None else state.lock.retention
    return retention if retention is not None and retention.until_ms > now_ms else None


def _older_key(place: ObjectName, named: VersionId) -> bytes:
    return version_key(place.tenant, place.bucket_tag, place.name_tag, named)


def _read_older(reader: StateReader, place: ObjectName, named: VersionId) -> EntryState | None:
    return read_state(reader, _older_key(place, named), EntryState)


def _write(overlay: StateOverlay, place: ObjectName, state: EntryState) -> None:
    overlay.put(entry_key(place.tenant, place.bucket_tag, place.name_tag), state)


def _write_older(overlay: StateOverlay, place: ObjectName, state: EntryState) -> None:
    assert state.newer is not None, "an older version follows another"
    overlay.put(_older_key(place, state.version_name), state)
