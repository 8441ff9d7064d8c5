"""A lock that nine gateways of nine companies agree on, as terraform keeps it beside its state: If-None-Match.

python lock_file.py BUCKET NAME    takes the lock, or says who holds it

Whoever creates the object holds the lock; of any number of creators at any gateways exactly one is answered 200. Who
holds it changes the state under If-Match, so that a lock that was broken by hand does no harm, and deletes the lock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid

import boto3
from botocore.exceptions import ClientError

TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}


def main(bucket: str, name: str) -> int:
    """Take the lock, change the state, give the lock back."""
    s3 = boto3.client("s3")
    holder = {"ID": str(uuid.uuid4()), "Who": f"{os.getpid()}@{socket.gethostname()}", "Operation": "apply"}
    lock = f"{name}.tflock"
    try:
        s3.put_object(Bucket=bucket, Key=lock, Body=json.dumps(holder).encode(), IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] not in TAKEN:
            raise
        held = json.loads(s3.get_object(Bucket=bucket, Key=lock)["Body"].read())
        print(f"locked by {held['Who']} for {held['Operation']}")
        return 1
    try:
        print(f"state {change_state(s3, bucket, name)}")
    finally:
        s3.delete_object(Bucket=bucket, Key=lock)
    return 0


def change_state(s3: object, bucket: str, name: str) -> int:
    """Count the state up; it must be what was read."""
    try:
        found = s3.get_object(Bucket=bucket, Key=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        s3.put_object(Bucket=bucket, Key=name, Body=b'{"serial": 1}', IfNoneMatch="*")
        return 1
    serial = json.loads(found["Body"].read())["serial"] + 1
    s3.put_object(Bucket=bucket, Key=name, Body=json.dumps({"serial": serial}).encode(), IfMatch=found["ETag"])
    return serial


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
