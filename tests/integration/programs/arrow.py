"""pyarrow's own S3 file system: a partitioned dataset written to the bucket of the first argument comes back."""

from __future__ import annotations

import os
import random
import sys

import pyarrow
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

bucket = sys.argv[1]
scheme, _, host = os.environ["AWS_ENDPOINT_URL"].partition("://")
files = pyarrow.fs.S3FileSystem(
    endpoint_override=host,
    scheme=scheme,
    region=os.environ["AWS_REGION"],
    tls_ca_file_path=os.environ["AWS_CA_BUNDLE"],
)

table = pyarrow.table({"year": [2024 + number % 3 for number in range(3000)], "number": list(range(3000))})
partitions = pyarrow.dataset.partitioning(pyarrow.schema([("year", pyarrow.int64())]), flavor="hive")
pyarrow.dataset.write_dataset(table, f"{bucket}/years", filesystem=files, format="parquet", partitioning=partitions)
back = pyarrow.dataset.dataset(f"{bucket}/years", filesystem=files, format="parquet", partitioning=partitions)
assert back.to_table(columns=["year", "number"]).sort_by("number").equals(table)
assert back.to_table(filter=pyarrow.dataset.field("year") == 2025).num_rows == 1000

contents = random.Random(1).randbytes(11 * 1024 * 1024)
with files.open_output_stream(f"{bucket}/large") as stream:
    stream.write(contents)
with files.open_input_file(f"{bucket}/large") as file:
    assert file.read_at(1000, 6_000_000) == contents[6_000_000:6_001_000]
    file.seek(0)
    assert file.read() == contents
files.delete_file(f"{bucket}/large")
assert files.get_file_info(f"{bucket}/large").type == pyarrow.fs.FileType.NotFound
print("same")
