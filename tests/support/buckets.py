"""A real S3 server on loopback (moto's), with buckets that anyone can read over HTTP."""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket. ``url`` is where it is read over HTTP; ``client`` is a boto3 client for inspection."""

    name: str
    url: str
    client: S3Client

    def facts(self, key: str) -> dict[str, Any]:
        """Return the server's metadata of an object: CacheControl, ContentType, ETag and so on."""
        return dict(self.client.head_object(Bucket=self.name, Key=key))


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server for a ``with`` block, which gets its URL; boto3 uses it as its endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    before = dict(os.environ)
    os.environ.update(_SETTINGS, AWS_ENDPOINT_URL_S3=url)
    try:
        yield url
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


def new_bucket(url: str, name: str) -> Bucket:
    """Create a bucket on the server at ``url``."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{name}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    return Bucket(name=name, url=f"{url}/{name}", client=client)
