"""DuckDB over Parquet files in a bucket: written, filtered and summed without a server: python parquet.py BUCKET.

The gateway and its keys are told as to every program of S3 (AWS_ENDPOINT_URL and so on). DuckDB's httpfs extension
comes from a wheel, so that nothing is fetched at run time: pip install duckdb duckdb-extension-httpfs, at one version.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb
import duckdb_extension_httpfs


def connected() -> duckdb.DuckDBPyConnection:
    """Return a database that reaches the gateway."""
    folder = Path(duckdb_extension_httpfs.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    database = duckdb.connect()
    database.execute(f"LOAD '{folder / 'httpfs.duckdb_extension'}'")
    scheme, _, host = os.environ["AWS_ENDPOINT_URL"].partition("://")
    if "AWS_CA_BUNDLE" in os.environ:
        database.execute("SET ca_cert_file = ?", [os.environ["AWS_CA_BUNDLE"]])
    secret = {
        "TYPE": "s3",
        "KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
        "SECRET": os.environ["AWS_SECRET_ACCESS_KEY"],
        "REGION": os.environ["AWS_DEFAULT_REGION"],
        "ENDPOINT": host,
        "URL_STYLE": "path",
        "USE_SSL": "true" if scheme == "https" else "false",
    }
    told = ", ".join(f"{name} '{text}'" for name, text in secret.items())
    database.execute(f"CREATE SECRET gateway ({told})")
    return database


def main(bucket: str) -> None:
    """Write a table in parts, one per region, and ask a question that reads one of them."""
    database = connected()
    database.execute(
        """CREATE TABLE sales AS
           SELECT number, ['alsace', 'lorraine', 'champagne'][1 + number % 3] AS region, number % 100 AS euros
           FROM range(300000) AS numbers(number)"""
    )
    database.execute(f"COPY sales TO 's3://{bucket}/sales' (FORMAT parquet, PARTITION_BY (region))")
    files = f"read_parquet('s3://{bucket}/sales/*/*.parquet', hive_partitioning = true)"
    asked = f"SELECT count(*), sum(euros) FROM {files} WHERE region = 'alsace'"  # noqa: S608 (our own bucket)
    count, euros = database.sql(asked).fetchall()[0]
    expected = database.sql("SELECT count(*), sum(euros) FROM sales WHERE region = 'alsace'").fetchall()[0]
    assert (count, euros) == expected, "the bucket tells what the table told"
    print(f"alsace: {count} sales, {euros} euros")


if __name__ == "__main__":
    main(sys.argv[1])
