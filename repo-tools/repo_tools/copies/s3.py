"""A bucket of S3, or of a store with the same protocol, as a destination.

Rules:

* boto3 finds credentials, region and endpoint: in the environment, a profile or a role (``AWS_PROFILE``,
  ``AWS_REGION``, ``AWS_ENDPOINT_URL_S3`` …); ``repo.toml`` contains none of them;
* every upload includes its SHA-256, which the server compares; large files are sent in parts;
* the server checks conditions (``If-Match``, ``If-None-Match``); a store that does not support them is
  refused, because the later of two publishers would silently overwrite the other.

boto3's exceptions are translated here.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repo_tools.copies.destination import StoredObject, VersionedObject, cache_control, content_type
from repo_tools.errors import DestinationError, MissingExtraError
from repo_tools.extras import how_to_install
from updog.url import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef


_ABSENT = frozenset({"NoSuchKey", "404"})
_CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_UNSUPPORTED = frozenset({"NotImplemented", "501"})


class S3Destination:
    """A bucket, or a folder of one.

    Args:
        bucket: its name. prefix: of every key; empty, or ends in a slash.
        client: boto3's client.
    """

    def __init__(self, bucket: str, prefix: str, client: S3Client) -> None:
        self._bucket, self._prefix, self._client = bucket, prefix, client

    @classmethod
    def named(cls, place: str) -> S3Destination:
        """Return the destination of ``s3://BUCKET[/PREFIX]``. Raises DestinationError."""
        bucket, _, prefix = place.removeprefix(S3_SCHEME).partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise DestinationError(f"{place!r} does not name a bucket", next_step="Write s3://BUCKET/PREFIX.")
        return cls(bucket, f"{prefix}/" if prefix else "", _client(place))

    @property
    def name(self) -> str:
        """The destination as ``s3://BUCKET/PREFIX``."""
        return f"{S3_SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    def list_files(self, folder: str) -> Mapping[str, StoredObject]:
        """Return every object below ``folder`` by its path."""
        found = {}
        with self._translated("list", folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"
            )
            for item in (item for page in pages for item in page.get("Contents", [])):
                path = item["Key"].removeprefix(self._prefix)
                found[path] = StoredObject(size=item["Size"], modified=item["LastModified"])
        return found

    def read(self, path: str, limit: int) -> VersionedObject | None:
        """Return an object of at most ``limit`` bytes, None if it does not exist."""
        from botocore.exceptions import ClientError

        with self._translated("read", path):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            with answer["Body"] as body:
                data = body.read(limit + 1)
        if len(data) > limit:
            raise DestinationError(f"{self.name}/{path} is longer than {limit} bytes")
        return VersionedObject(data=data, tag=answer["ETag"])

    def upload(self, path: str, file: Path, sent: Callable[[int], None]) -> None:
        """Upload a file, in parts if it is large: an object appears completely or not at all."""
        facts = {"CacheControl": cache_control(path), "ContentType": content_type(path)}
        with self._translated("upload", path):
            self._client.upload_file(
                Filename=str(file),
                Bucket=self._bucket,
                Key=self._prefix + path,
                ExtraArgs={**facts, "ChecksumAlgorithm": "SHA256"},
                Callback=sent,
            )

    def put(self, path: str, data: bytes, *, expected: VersionedObject | None) -> bool:
        """Write a small object if the stored one is still ``expected``; return whether it was."""
        from botocore.exceptions import ClientError

        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._prefix + path,
            "Body": data,
            "CacheControl": cache_control(path),
            "ContentType": content_type(path),
            "ChecksumAlgorithm": "SHA256",
        }
        if expected:
            request["IfMatch"] = expected.tag
        else:
            request["IfNoneMatch"] = "*"
        with self._translated("write", path):
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if _code(error) in _CONDITION_FAILED or (expected and _code(error) in _ABSENT):
                    return False
                raise
        return True

    def remove(self, path: str) -> None:
        """Remove an object, if it exists."""
        with self._translated("remove", path):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path)

    @contextmanager
    def _translated(self, action: str, path: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"{self.name}/{path}"
        try:
            yield
        except ClientError as error:
            if _code(error) in _UNSUPPORTED:
                raise DestinationError(
                    f"{self.name} has no conditional writes: two publishers could overwrite each other",
                    next_step="Use a store that supports If-Match and If-None-Match, or push to a folder.",
                ) from error
            raise DestinationError(f"cannot {action} {place}: {without_secrets(str(error))}") from error
        except (Boto3Error, BotoCoreError, OSError) as error:
            raise DestinationError(f"cannot {action} {place}: {without_secrets(str(error))}") from error


def _client(place: str) -> S3Client:
    """Return boto3's client. Raises DestinationError, MissingExtraError."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingExtraError(
            f"{place} needs boto3, which is not installed", next_step=how_to_install("s3")
        ) from error
    try:
        return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))
    except (BotoCoreError, ValueError) as error:
        raise DestinationError(f"{place} cannot be reached: {without_secrets(str(error))}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


S3_SCHEME = "s3://"
