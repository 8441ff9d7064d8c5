"""pandas over s3fs: what is written by HTTP comes back by TLS, tables and files alike, in the bucket of argument 1."""

from __future__ import annotations

import os
import random
import sys

import pandas
import s3fs

bucket = sys.argv[1]
options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
secure = {
    "endpoint_url": os.environ["SECURE_AWS_ENDPOINT_URL"],
    "key": os.environ["SECURE_AWS_ACCESS_KEY_ID"],
    "secret": os.environ["SECURE_AWS_SECRET_ACCESS_KEY"],
    "client_kwargs": {"verify": os.environ["SECURE_AWS_CA_BUNDLE"]},
}

table = pandas.DataFrame({"number": range(1000), "text": [f"é{number}" for number in range(1000)]})
table.to_csv(f"s3://{bucket}/tables/a.csv", index=False, storage_options=options)
table.to_parquet(f"s3://{bucket}/tables/a.parquet", storage_options=options)
assert pandas.read_csv(f"s3://{bucket}/tables/a.csv", storage_options=secure).equals(table)
assert pandas.read_parquet(f"s3://{bucket}/tables/a.parquet", storage_options=secure).equals(table)

files, elsewhere = s3fs.S3FileSystem(**options), s3fs.S3FileSystem(**secure)
contents = random.Random(1).randbytes(6 * 1024 * 1024)
with files.open(f"{bucket}/large", "wb", block_size=5 * 1024 * 1024) as file:
    file.write(contents)
with elsewhere.open(f"{bucket}/large", "rb") as file:
    file.seek(5_000_000)
    assert file.read(1000) == contents[5_000_000:5_001_000]
assert elsewhere.cat(f"{bucket}/large") == contents
files.mv(f"{bucket}/large", f"{bucket}/moved/large")
assert sorted(files.find(bucket)) == [f"{bucket}/moved/large", f"{bucket}/tables/a.csv", f"{bucket}/tables/a.parquet"]
files.rm(f"{bucket}/moved", recursive=True)
files.invalidate_cache()
assert files.ls(bucket) == [f"{bucket}/tables"]
print("same")
