"""The programs that people use already, unchanged: each stores a tree in a bucket and gets it back byte for byte.

What is written at an operator's gateway by HTTP is read at a customer's own by TLS, and the other way round.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.s3_clients import installed_client
from tests.integration.s3_endpoints import Endpoint

PROGRAMS = Path(__file__).parent / "programs"
SECONDS_MAX = 120
FILES = {
    "empty": b"",
    "small.txt": b"a few bytes",
    "deep/er/names with spaces & é": random.Random(1).randbytes(50_000),
    "large": random.Random(2).randbytes(8 * 1024 * 1024 + 1),
}
"""The last is sent in parts by every client: they begin at 5 or 8 MiB, or are told so."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, contents in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ran(endpoint: Endpoint, home: Path, *words: str | Path, **more: str) -> str:
    """Run a client to its good end and return what it printed."""
    finished = subprocess.run(
        [str(word) for word in words],
        env=endpoint.environment(home) | more,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    assert finished.returncode == 0, f"{words[0]} {words[1]}: {finished.stdout}{finished.stderr}"
    return finished.stdout


def test_aws_cli(
    endpoints: tuple[Endpoint, ...], secure_endpoint: Endpoint, bucket: str, tree: Path, tmp_path: Path
) -> None:
    def aws(endpoint: Endpoint, *words: str | Path) -> str:
        return ran(endpoint, tmp_path, installed_client("aws"), "s3", *words)

    plain = endpoints[2]
    aws(plain, "sync", tree, f"s3://{bucket}/tree", "--quiet")
    assert aws(secure_endpoint, "sync", tree, f"s3://{bucket}/tree") == ""
    aws(secure_endpoint, "cp", f"s3://{bucket}/tree/large", f"s3://{bucket}/copied", "--quiet")
    listed = [line[31:] for line in aws(plain, "ls", f"s3://{bucket}/", "--recursive").splitlines()]
    assert listed == ["copied", *(f"tree/{name}" for name in sorted(FILES))]
    address = aws(secure_endpoint, "presign", f"s3://{bucket}/copied").strip()
    assert httpx.get(address, verify=secure_endpoint.trust()).content == FILES["large"]
    aws(secure_endpoint, "sync", f"s3://{bucket}/tree", "back", "--quiet")
    assert files_in(tmp_path / "back") == FILES
    aws(plain, "rb", f"s3://{bucket}", "--force")


def test_rclone(
    endpoints: tuple[Endpoint, ...], secure_endpoint: Endpoint, bucket: str, tree: Path, tmp_path: Path
) -> None:
    remote = f":s3:{bucket}/tree"
    (tmp_path / "rclone.conf").write_text("")
    settings = ("--config", tmp_path / "rclone.conf", "--s3-provider", "Other", "--s3-env-auth")
    in_parts = ("--s3-upload-cutoff", "5Mi", "--s3-chunk-size", "5Mi")

    def rclone(endpoint: Endpoint, *words: str | Path) -> str:
        reached = ("--s3-endpoint", endpoint.url, "--s3-region", endpoint.region, "--ca-cert", endpoint.authority)
        told = (*words, *settings, *reached, *in_parts)
        return ran(endpoint, tmp_path, installed_client("rclone"), *told, AWS_CA_BUNDLE="")  # rclone has its own option

    rclone(endpoints[3], "copy", tree, remote)
    rclone(secure_endpoint, "check", "--download", tree, remote)
    (tree / "small.txt").write_bytes(b"changed")
    (tree / "empty").unlink()
    rclone(secure_endpoint, "sync", tree, remote)
    rclone(endpoints[3], "copy", remote, "back")
    assert files_in(tmp_path / "back") == files_in(tree)
    rclone(secure_endpoint, "purge", remote)
    assert rclone(endpoints[3], "ls", f":s3:{bucket}") == ""


def test_restic(
    endpoints: tuple[Endpoint, ...], secure_endpoint: Endpoint, bucket: str, tree: Path, tmp_path: Path
) -> None:
    def restic(endpoint: Endpoint, *words: str | Path) -> str:
        where = {"RESTIC_REPOSITORY": f"s3:{endpoint.url}/{bucket}/kept", "RESTIC_PASSWORD": "a word of the tests"}
        trusted = ("--cacert", str(endpoint.authority), "--no-cache")
        return ran(endpoint, tmp_path, installed_client("restic"), *words, *trusted, **where)

    restic(endpoints[4], "init")
    restic(endpoints[4], "backup", tree)
    (tree / "small.txt").write_bytes(b"changed")
    restic(secure_endpoint, "backup", tree)
    restic(secure_endpoint, "restore", "latest", "--target", "back")
    assert files_in(tmp_path / "back" / tree.relative_to("/")) == files_in(tree)
    restic(secure_endpoint, "forget", "--keep-last", "1")
    restic(endpoints[5], "prune")
    restic(endpoints[4], "check", "--read-data")
    assert "\n1 snapshots\n" in restic(endpoints[4], "snapshots", "--compact")


def test_s3cmd(
    endpoints: tuple[Endpoint, ...], secure_endpoint: Endpoint, bucket: str, tree: Path, tmp_path: Path
) -> None:
    def s3cmd(endpoint: Endpoint, *words: str | Path) -> str:
        settings = {
            "access_key": endpoint.access_key,
            "secret_key": endpoint.secret_key,
            "host_base": endpoint.host,
            "host_bucket": endpoint.host,
            "bucket_location": endpoint.region,
            "use_https": endpoint.is_secure,
            "ca_certs_file": endpoint.authority,
            "multipart_chunk_size_mb": 5,
        }
        lines = [f"{name} = {told}" for name, told in settings.items()]
        (tmp_path / "s3cfg").write_text("\n".join(["[default]", *lines, ""]))
        return ran(endpoint, tmp_path, installed_client("s3cmd"), "--config", tmp_path / "s3cfg", "--quiet", *words)

    s3cmd(endpoints[6], "sync", f"{tree}/", f"s3://{bucket}/tree/")
    s3cmd(secure_endpoint, "sync", f"s3://{bucket}/tree/", f"{tmp_path}/back/")
    assert files_in(tmp_path / "back") == FILES
    s3cmd(secure_endpoint, "cp", f"s3://{bucket}/tree/large", f"s3://{bucket}/copied")
    s3cmd(endpoints[6], "get", f"s3://{bucket}/copied", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == FILES["large"]
    s3cmd(secure_endpoint, "rb", "--recursive", "--force", f"s3://{bucket}")


@pytest.mark.parametrize("program", ["pandas_s3fs", "arrow", "minio_client"])
def test_python_clients(
    endpoints: tuple[Endpoint, ...], secure_endpoint: Endpoint, bucket: str, tmp_path: Path, program: str
) -> None:
    told = {f"SECURE_{name}": text for name, text in secure_endpoint.environment(tmp_path).items()}
    words = (installed_client("python"), PROGRAMS / f"{program}.py", bucket)
    assert ran(endpoints[7], tmp_path, *words, **told) == "same\n"
