"""minio-py: what is written by HTTP is read, listed, copied, tagged and removed by TLS, in the bucket of argument 1."""

from __future__ import annotations

import io
import os
import random
import sys

import urllib3
from minio import Minio
from minio.commonconfig import CopySource, Tags
from minio.deleteobjects import DeleteObject

bucket = sys.argv[1]
http = urllib3.PoolManager(ca_certs=os.environ["SECURE_AWS_CA_BUNDLE"])
client, elsewhere = (
    Minio(
        os.environ[f"{which}AWS_ENDPOINT_URL"].partition("://")[2],
        access_key=os.environ[f"{which}AWS_ACCESS_KEY_ID"],
        secret_key=os.environ[f"{which}AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        secure=which != "",
        http_client=http,
    )
    for which in ("", "SECURE_")
)


def got(name: str) -> bytes:
    """Return an object's bytes."""
    answer = elsewhere.get_object(bucket, name)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


assert client.bucket_exists(bucket)
assert not client.bucket_exists(f"{bucket}-never")
for name, size in (("small", 10_000), ("large é", 6 * 1024 * 1024)):
    contents = random.Random(size).randbytes(size)
    client.put_object(bucket, name, io.BytesIO(contents), size, part_size=5 * 1024 * 1024, metadata={"colour": "bleu"})
    assert got(name) == contents
    assert elsewhere.stat_object(bucket, name).size == size
    address = elsewhere.presigned_get_object(bucket, name)
    assert http.request("GET", address).data == contents
small = got("small")
client.copy_object(bucket, "copy", CopySource(bucket, "small"))
assert got("copy") == small
tags = Tags(for_object=True)
tags["a"] = "b"
client.set_object_tags(bucket, "copy", tags)
assert client.get_object_tags(bucket, "copy") == {"a": "b"}
names = [found.object_name for found in elsewhere.list_objects(bucket, recursive=True)]
assert names == ["copy", "large é", "small"], names
assert list(client.remove_objects(bucket, [DeleteObject(name) for name in names])) == []
assert list(client.list_objects(bucket)) == []
print("same")
