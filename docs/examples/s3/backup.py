"""Back a folder up with boto3 and bring it back: only what changed travels, every file by its checksum.

python backup.py FOLDER BUCKET           store what is new or changed
python backup.py --restore BUCKET FOLDER bring everything back

The gateway and its keys are told as to every program of S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION=grand-est.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as S3 writes it."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()


def back_up(folder: Path, bucket: str) -> int:
    """Store what the bucket does not hold yet; return how many files that were."""
    s3 = boto3.client("s3")
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError:
        s3.create_bucket(Bucket=bucket)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    known = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    sent = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, digest = path.relative_to(folder).as_posix(), sha256_of(path)
        if name in known and s3.head_object(Bucket=bucket, Key=name)["Metadata"].get("sha256") == digest:
            continue
        s3.upload_file(str(path), bucket, name, ExtraArgs={"Metadata": {"sha256": digest}})
        sent += 1
    return sent


def restore(bucket: str, folder: Path) -> int:
    """Bring every object back as a file, and compare it with the checksum it was stored with."""
    s3 = boto3.client("s3")
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"]
            if not path.resolve().is_relative_to(folder.resolve()):
                sys.exit(f"{entry['Key']} would lie outside {folder}")
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, entry["Key"], str(path))
            if sha256_of(path) != s3.head_object(Bucket=bucket, Key=entry["Key"])["Metadata"]["sha256"]:
                sys.exit(f"{entry['Key']} is not what was stored")
            count += 1
    return count


if __name__ == "__main__":
    if sys.argv[1] == "--restore":
        print(f"{restore(sys.argv[2], Path(sys.argv[3]))} files back")
    else:
        print(f"{back_up(Path(sys.argv[1]), sys.argv[2])} files stored")
