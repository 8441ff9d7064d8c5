"""The examples of docs/examples/s3 run as their readers run them, and the page of S3 names tests that exist."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.s3_clients import HOUSE, installed_client
from tests.integration.s3_endpoints import Endpoint, S3Client
from tests.integration.test_s3_objects import got
from tests.integration.test_s3_programs import SECONDS_MAX, files_in, ran

EXAMPLES = HOUSE / "docs" / "examples" / "s3"
LOCKERS = 4


def folder_of(path: Path, seed: int) -> Path:
    """Make a folder with a few files."""
    for number, byte_count in enumerate((0, 10, 100_000)):
        file = path / "some" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(seed + number).randbytes(byte_count))
    return path


def test_backup_by_boto3(secure_endpoint: Endpoint, bucket: str, tmp_path: Path) -> None:
    endpoint = secure_endpoint
    folder, program = folder_of(tmp_path / "folder", 1), EXAMPLES / "backup.py"
    assert ran(endpoint, tmp_path, sys.executable, program, folder, bucket) == "3 files stored\n"
    (folder / "new").write_bytes(b"new")
    assert ran(endpoint, tmp_path, sys.executable, program, folder, bucket) == "1 files stored\n"
    assert ran(endpoint, tmp_path, sys.executable, program, "--restore", bucket, "back") == "4 files back\n"
    assert files_in(tmp_path / "back") == files_in(folder)


def test_nightly_by_restic(endpoints: tuple[Endpoint, ...], bucket: str, tmp_path: Path) -> None:
    endpoint, folder, program = endpoints[5], folder_of(tmp_path / "folder", 2), EXAMPLES / "nightly.sh"
    told = {"RESTIC_PASSWORD": "a word of the tests"}
    installed_client("restic")
    for _ in range(2):
        ran(endpoint, tmp_path, program, folder, endpoint.url, bucket, **told)
    where = {**told, "RESTIC_REPOSITORY": f"s3:{endpoint.url}/{bucket}/restic"}
    ran(endpoint, tmp_path, "restic", "restore", "latest", "--target", "back", **where)
    assert files_in(tmp_path / "back" / folder.relative_to("/")) == files_in(folder)


def test_parquet_by_duckdb(secure_endpoint: Endpoint, bucket: str, tmp_path: Path) -> None:
    said = ran(secure_endpoint, tmp_path, installed_client("python"), EXAMPLES / "parquet.py", bucket)
    assert said == "alsace: 100000 sales, 4950000 euros\n"


def test_of_many_lockers_at_nine_gateways_each_state_has_one(
    endpoints: tuple[Endpoint, ...], s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    def locked(number: int) -> str:
        finished = subprocess.run(
            [sys.executable, str(EXAMPLES / "lock_file.py"), bucket, "state"],
            env=endpoints[number % len(endpoints)].environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        assert finished.returncode in {0, 1}, finished.stderr
        return finished.stdout

    with ThreadPoolExecutor(LOCKERS) as pool:
        said = list(pool.map(locked, range(LOCKERS)))
    states = sorted(line for line in said if line.startswith("state "))
    assert states == [f"state {number}\n" for number in range(1, len(states) + 1)]
    assert states, said
    assert got(s3, bucket, "state") == b'{"serial": %d}' % len(states)
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["state"]


def test_the_page_of_s3_names_tests_that_exist() -> None:
    page = (HOUSE / "docs" / "s3.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    known = {
        name
        for path in (HOUSE / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    files = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", page))
    assert len(named) > 30
    assert sorted(named - known) == []
    assert sorted(file for file in files if not list((HOUSE / "tests").rglob(file))) == []
