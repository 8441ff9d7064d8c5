"""pyarrow's own S3 file system: what is written by HTTP comes back by TLS, in the bucket of argument one."""

from __future__ import annotations

import os
import random
import sys

import pyarrow
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

bucket = sys.argv[1]
files, elsewhere = (
    pyarrow.fs.S3FileSystem(
        access_key=os.environ[f"{which}AWS_ACCESS_KEY_ID"],
        secret_key=os.environ[f"{which}AWS_SECRET_ACCESS_KEY"],
        endpoint_override=os.environ[f"{which}AWS_ENDPOINT_URL"].partition("://")[2],
        scheme=scheme,
        region=os.environ["AWS_REGION"],
        tls_ca_file_path=os.environ[f"{which}AWS_CA_BUNDLE"],
    )
    for which, scheme in (("", "http"), ("SECURE_", "https"))
)

table = pyarrow.table({"year": [2024 + number % 3 for number in range(3000)], "number": list(range(3000))})
partitions = pyarrow.dataset.partitioning(pyarrow.schema([("year", pyarrow.int64())]), flavor="hive")
pyarrow.dataset.write_dataset(table, f"{bucket}/years", filesystem=files, format="parquet", partitioning=partitions)
back = pyarrow.dataset.dataset(f"{bucket}/years", filesystem=elsewhere, format="parquet", partitioning=partitions)
assert back.to_table(columns=["year", "number"]).sort_by("number").equals(table)
assert back.to_table(filter=pyarrow.dataset.field("year") == 2025).num_rows == 1000

contents = random.Random(1).randbytes(6 * 1024 * 1024)
with files.open_output_stream(f"{bucket}/large") as stream:
    stream.write(contents)
with elsewhere.open_input_file(f"{bucket}/large") as file:
    assert file.read_at(1000, 5_000_000) == contents[5_000_000:5_001_000]
    file.seek(0)
    assert file.read() == contents
elsewhere.delete_file(f"{bucket}/large")
assert files.get_file_info(f"{bucket}/large").type == pyarrow.fs.FileType.NotFound
print("same")
