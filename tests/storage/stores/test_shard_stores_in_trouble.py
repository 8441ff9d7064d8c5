"""Whatever fails at whatever step, a store of shards keeps what it acknowledged and returns right bytes or none.

One machine of random steps (as Bornholt et al. check theirs, "Using Lightweight Formal Methods to Validate a Key-Value
Storage Node in Amazon S3", SOSP 2021): the store, on disk or in a bucket, against a model of a few lines. A step may be
refused before or after it took effect, be cut short by a crash, be torn in the middle; bytes may flip while the store
is closed. What was refused is unknown until the store is opened again, and then it is one or the other.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import plyvel
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consensus.identifiers import Buffer, Height
from storage.errors import ShardCorruptError, ShardMissingError, StoreUnavailableError
from storage.identifiers import UNIT_BYTES, ColumnIndex, SegmentId, TenantId
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.stores import leveldb
from storage.stores.leveldb import Durability, LevelDatabase, WriteBatch, WritePurpose
from storage.stores.object_bucket import ObjectBucket, memory_bucket
from storage.stores.object_store import ObjectShardStore
from storage.stores.protocols import ShardName, ShardStore
from storage.stores.units import LevelShardStore

TENANT: Final = TenantId(b"t" * 16)
SHAPE: Final = SegmentShape(6 * 100_000, 6)
"""Two units, the second shorter; seven leaves."""
NAMES: Final = tuple(ShardName(SegmentId(bytes([number]) * 32), ColumnIndex(number)) for number in range(3))
SHARDS: Final = {name: random.Random(place).randbytes(SHAPE.shard_bytes) for place, name in enumerate(NAMES)}
EXPIRY: Final = Height(10)
COPIES_MAX: Final = 1_000


class Fault(Enum):
    """What becomes of a write."""

    REFUSED = "refused: it never happened"
    REFUSED_LATE = "refused: it happened all the same"
    FULL = "no space"
    FAILED = "the disk failed"
    TORN = "only a part of it is there after the crash that follows"


Trouble: TypeAlias = tuple[Fault, int] | None
"""What becomes of a step's write, after so many that go well."""
TROUBLES: Final = st.none() | st.tuples(st.sampled_from(Fault), st.integers(0, 3))
SOME_NAMES: Final = st.sets(st.sampled_from(NAMES), min_size=1)


class Place(Protocol):
    """Where a store keeps its bytes."""

    def open(self) -> ShardStore: ...
    def crash(self, store: ShardStore) -> None: ...
    def arm(self, fault: Fault, after_writes: int) -> None: ...
    def disarm(self) -> None: ...
    def flip(self, choice: random.Random) -> None: ...
    def clear(self) -> None: ...


class LevelPlace:
    """A folder; a crash leaves a copy of what the kernel has, the last write perhaps torn."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="grandest-trouble-"))
        self.folder = self.root / "0"
        self.number = 0
        self.patch = pytest.MonkeyPatch()
        self.armed: tuple[Fault, int] | None = None
        self.torn: tuple[Path, int] | None = None
        apply, write = leveldb._apply, LevelDatabase.write
        self.written = self.folder

        def noted(
            database: LevelDatabase,
            batch: WriteBatch,
            *,
            purpose: WritePurpose = WritePurpose.CONSENSUS,
            durability: Durability = Durability.FLUSHED,
        ) -> None:
            self.written = database.directory
            write(database, batch, purpose=purpose, durability=durability)

        def applied(database: plyvel.DB, batch: WriteBatch, durability: Durability) -> None:
            fault = self._due()
            if fault is None:
                apply(database, batch, durability)
                return
            if fault in {Fault.REFUSED_LATE, Fault.TORN}:
                apply(database, batch, Durability.FLUSHED)
            if fault is Fault.TORN:
                self.torn = self.written, batch.byte_count
            said = {Fault.FULL: "No space left on device", Fault.FAILED: "Input/output error"}
            raise plyvel.IOError(said.get(fault, "refused"))

        self.patch.setattr(leveldb, "_apply", applied)
        self.patch.setattr(LevelDatabase, "write", noted)

    def _due(self) -> Fault | None:
        if self.armed is None:
            return None
        fault, after_writes = self.armed
        self.armed = (fault, after_writes - 1) if after_writes else None
        return None if after_writes else fault

    def open(self) -> ShardStore:
        return LevelShardStore(self.folder)

    def crash(self, store: ShardStore) -> None:
        self.number += 1
        after = self.root / str(self.number)
        copy_of_one_moment(self.folder, after)
        torn, self.torn = self.torn, None
        if torn is not None:
            folder, byte_count = torn
            log = max((after / folder.name).glob("*.log"))
            cut = random.Random(self.number).randint(1, max(byte_count, 1))
            with log.open("r+b") as file:
                file.truncate(max(log.stat().st_size - cut, 0))
        store.close()
        shutil.rmtree(self.folder)
        self.folder = after

    def arm(self, fault: Fault, after_writes: int) -> None:
        self.armed = fault, after_writes

    def disarm(self) -> None:
        self.armed = None

    def flip(self, choice: random.Random) -> None:
        """Flip a bit of some unit or leaf hash, wherever it lies; the index refuses damage as a whole."""
        unit = choice.choice([shard[start : start + 64] for shard in SHARDS.values() for start in (0, UNIT_BYTES)])
        for path in (self.folder / "units").iterdir():
            contents = bytearray(path.read_bytes())
            at = contents.find(unit)
            if path.suffix in {".ldb", ".log"} and at >= 0:
                contents[at + choice.randrange(len(unit))] ^= 1 << choice.randrange(8)
                path.write_bytes(contents)

    def clear(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.root)


def copy_of_one_moment(folder: Path, after: Path) -> None:
    """Copy until nothing has changed meanwhile: LevelDB compacts in a thread of its own."""
    for _ in range(COPIES_MAX):
        before = files_of(folder)
        try:
            shutil.copytree(folder, after)
        except shutil.Error:  # a file was just compacted away
            pass
        else:
            if before == files_of(folder):
                return
        shutil.rmtree(after)
    raise AssertionError(f"{folder} never stands still")


def files_of(folder: Path) -> set[tuple[str, int]]:
    found = set[tuple[str, int]]()
    for path in folder.rglob("*"):
        try:
            found.add((str(path), path.stat().st_size))
        except FileNotFoundError:
            found.add((str(path), -1))
    return found


class FaultyBucket(ObjectBucket):
    """A bucket whose writes fail when they are told to."""

    def __init__(self, honest: ObjectBucket) -> None:
        super().__init__(honest._store)
        self.armed: tuple[Fault, int] | None = None

    @contextmanager
    def _written(self) -> Generator[bool]:
        if self.armed is None:
            yield True
            return
        fault, after_writes = self.armed
        self.armed = (fault, after_writes - 1) if after_writes else None
        if after_writes:
            yield True
            return
        yield fault in {Fault.REFUSED_LATE, Fault.TORN}
        raise StoreUnavailableError(fault.value)

    def put(self, path: str, contents: Buffer) -> None:
        with self._written() as happens:
            if happens:
                super().put(path, contents)

    def delete(self, paths: Sequence[str]) -> None:
        """Deleting many is many writes: the first half may be done."""
        if not paths:
            return
        with self._written() as happens:
            super().delete(paths if happens else paths[: len(paths) // 2])


class BucketPlace:
    """Objects; writing one is all or nothing."""

    def __init__(self) -> None:
        self.bucket = FaultyBucket(memory_bucket())

    def open(self) -> ShardStore:
        return ObjectShardStore(self.bucket, b"seat 3")

    def crash(self, store: ShardStore) -> None:
        """Nothing is left but the objects."""

    def arm(self, fault: Fault, after_writes: int) -> None:
        self.bucket.armed = fault, after_writes

    def disarm(self) -> None:
        self.bucket.armed = None

    def flip(self, choice: random.Random) -> None:
        pieces = [listed.path for listed in self.bucket.listing("pieces/")]
        if pieces:
            path = choice.choice(pieces)
            contents = bytearray(self.bucket.get(path) or b"")
            contents[choice.randrange(len(contents))] ^= 1 << choice.randrange(8)
            self.bucket.put(path, contents)

    def clear(self) -> None:
        """Nothing to do."""


class StoreInTrouble(RuleBasedStateMachine):
    """A store in a place, and what must be in it."""

    make_place: type[LevelPlace | BucketPlace]

    def __init__(self) -> None:
        super().__init__()
        self.place: Place = self.make_place()
        self.store = self.place.open()
        self.kept: set[ShardName] = set()
        """Acknowledged as finished, or seen after a refusal."""
        self.unknown: set[ShardName] = set()
        """A step about them was refused since the last opening."""
        self.waiting: set[ShardName] = set()
        """Of those kept, the ones with a receipt that nobody settled."""
        self.flipped = False

    @contextmanager
    def attempt(self, trouble: Trouble, *names: ShardName) -> Generator[None]:
        """Run a step that may be refused; then nothing is known of its shards until the store is opened again."""
        if trouble is not None:
            self.place.arm(*trouble)
        try:
            yield
        except StoreUnavailableError:
            self.unknown.update(names)
            self.reopen()
        self.place.disarm()

    def reopen(self) -> None:
        """Crash, open, and learn which of the two happened to what is unknown."""
        self.place.disarm()
        self.place.crash(self.store)
        self.store = self.place.open()
        there = set(self.store.names())
        waiting = {shard.name for shard in self.store.uncommitted()}
        for name in self.unknown:
            (self.kept.add if name in there else self.kept.discard)(name)
            (self.waiting.add if name in waiting else self.waiting.discard)(name)
        self.unknown.clear()

    @rule(trouble=TROUBLES, name=st.sampled_from(NAMES), first=st.integers(0, 1))
    def put_a_unit(self, trouble: Trouble, name: ShardName, first: int) -> None:
        stop = SHAPE.shard_bytes if first else UNIT_BYTES
        with self.attempt(trouble, name):
            self.store.put_units(name, TENANT, SHAPE, first * UNIT_BYTES, SHARDS[name][first * UNIT_BYTES : stop])

    @rule(trouble=TROUBLES, names=SOME_NAMES)
    def put_whole(self, trouble: Trouble, names: set[ShardName]) -> None:
        """As an upload does: all of it, then the receipt."""
        with self.attempt(trouble, *names):
            for name in sorted(names):
                self.store.put_units(name, TENANT, SHAPE, 0, SHARDS[name])
            self.finish_now(names)

    @rule(trouble=TROUBLES, names=SOME_NAMES)
    def finish(self, trouble: Trouble, names: set[ShardName]) -> None:
        with self.attempt(trouble, *names):
            self.finish_now(names)

    def finish_now(self, names: set[ShardName]) -> None:
        for stored in self.store.finish(sorted(names), EXPIRY):
            if stored is not None and stored.name not in self.kept:
                self.kept.add(stored.name)
                self.waiting.add(stored.name)

    @rule(trouble=TROUBLES, names=SOME_NAMES)
    def settle(self, trouble: Trouble, names: set[ShardName]) -> None:
        with self.attempt(trouble, *names):
            self.store.settle(sorted(names))
            self.waiting -= names

    @rule(trouble=TROUBLES, names=SOME_NAMES)
    def delete(self, trouble: Trouble, names: set[ShardName]) -> None:
        with self.attempt(trouble, *names):
            self.store.delete(sorted(names))
            self.kept -= names
            self.waiting -= names

    @rule(trouble=TROUBLES, name=st.sampled_from(NAMES))
    def restore(self, trouble: Trouble, name: ShardName) -> None:
        with self.attempt(trouble, name):
            self.store.restore(name, TENANT, SHAPE, root_of(leaf_hashes(SHARDS[name])), SHARDS[name])
            self.kept.add(name)
            self.waiting.discard(name)

    @rule(trouble=TROUBLES)
    def sweep(self, trouble: Trouble) -> None:
        with self.attempt(trouble):
            self.store.drop_orphans()
            self.store.compact()

    @rule()
    def crash(self) -> None:
        self.reopen()

    @rule(seed=st.integers(0, 99))
    def flip(self, seed: int) -> None:
        """A bit flips while the store is closed."""
        self.place.disarm()
        self.store.close()
        self.place.flip(random.Random(seed))
        self.store = self.place.open()
        self.flipped = True

    @invariant()
    def what_was_acknowledged_is_there_and_right(self) -> None:
        assert set(self.store.names()) == self.kept
        assert {shard.name for shard in self.store.uncommitted()} == self.waiting
        for name in NAMES:
            described = self.store.describe(name)
            assert (described is not None) == (name in self.kept)
            try:
                found = b"".join(bytes(part) for part in self.store.read_leaves(name, 0, SHAPE.leaves))
            except ShardMissingError:
                assert name not in self.kept
            except ShardCorruptError:
                assert self.flipped, "only a flipped bit damages"
            else:
                assert found == SHARDS[name], "right bytes or none"

    def teardown(self) -> None:
        self.store.close()
        self.place.clear()


class LevelInTrouble(StoreInTrouble):
    """On LevelDB."""

    make_place = LevelPlace


class BucketInTrouble(StoreInTrouble):
    """In a bucket, through the client that asks a real one."""

    make_place = BucketPlace


TestLevelInTrouble = LevelInTrouble.TestCase
TestLevelInTrouble.settings = settings(max_examples=20, stateful_step_count=14, deadline=None)
TestBucketInTrouble = BucketInTrouble.TestCase
TestBucketInTrouble.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
