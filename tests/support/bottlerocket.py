"""Bottlerocket's clients as models: what they send, what they read, and what they take an answer for.

Facts: sources/api/apiclient/src/{lib,update}.rs and sources/api/thar-be-updates/src/status.rs of
bottlerocket-core-kit a10182f9; agent/src/apiclient.rs of bottlerocket-update-operator 2fcbeb1. Their parser
(serde) ignores unknown members; a missing one, an unknown word, or a value of another type is an error.
"""

from __future__ import annotations

import http.client
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from tests.support.api_clients import Connection
from tests.support.patience import slowness_of_this_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.api_clients import Reply

_NUMBER = "(0|[1-9][0-9]*)"
_Version = Annotated[
    str, msgspec.Meta(pattern=rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$")
]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]


class Image(msgspec.Struct):
    """``UpdateImage``."""

    arch: str
    version: _Version
    variant: str


class Partition(msgspec.Struct):
    """``StagedImage``."""

    image: Image
    next_to_boot: bool


class Command(msgspec.Struct):
    """``CommandResult`` as the operator reads it: it does not know that a command can be `deactivate`."""

    cmd_type: Literal["refresh", "prepare", "activate"]
    cmd_status: Literal["Success", "Failed", "Unknown"]
    timestamp: str
    exit_status: _U32
    stderr: str


class OperatorStatus(msgspec.Struct):
    """``UpdateStatus`` as the operator reads it: the last command must be there."""

    update_state: Literal["Idle", "Available", "Staged", "Ready"]
    available_updates: list[_Version]
    most_recent_command: Command
    chosen_update: Image | None = None
    active_partition: Partition | None = None
    staging_partition: Partition | None = None


class OperatorOs(msgspec.Struct):
    """``OsInfo``."""

    version_id: _Version


class ApiClientError(Exception):
    """apiclient ended with an error."""


def send(socket: Path, method: str, path: str) -> Reply:
    """Return the answer to a request as apiclient sends it: hyper names the socket as the host, in hex."""
    host = str(socket).encode().hex()
    with Connection(socket) as connection:
        body = b"" if method == "POST" else None
        return connection.ask(
            method, path, body, {"Host": host, "Accept": "*/*", "Content-Type": "application/json"}
        )


class ApiClient:
    """``apiclient update`` and ``apiclient raw``.

    Its limits are those of a quiet machine, stretched as this one is slow.

    Args:
        socket: of the API.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def raw(self, path: str, method: str = "GET") -> str:
        """Return the body of a success. Raises ApiClientError."""
        reply = send(self._socket, method, path)
        if not http.client.OK <= reply.status < http.client.MULTIPLE_CHOICES:
            raise ApiClientError(f"Status {reply.status} when {method}ing {path}: {reply.body.decode()}")
        return reply.body.decode()

    def check(self) -> dict[str, Any]:
        """``update check``: return the status after it."""
        return self._wait("/actions/refresh-updates", "refresh", pause=0.1, attempts=100)

    def apply(self) -> dict[str, Any]:
        """``update apply``: return the status after it."""
        self._wait("/actions/prepare-update", "prepare", pause=0.5, attempts=1200)
        return self._wait("/actions/activate-update", "activate", pause=0.1, attempts=50)

    def cancel(self) -> dict[str, Any]:
        """``update cancel``: return the status after it."""
        return self._wait("/actions/deactivate-update", "deactivate", pause=0.1, attempts=50)

    def _wait(self, path: str, command: str, *, pause: float, attempts: int) -> dict[str, Any]:
        """Start a command and return the status once it is that of another moment, and of this command."""
        before = send(self._socket, "GET", "/updates/status")
        if before.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            raise ApiClientError(f"Unable to check initial update status, got code {before.status}")
        last = self._field(before, "timestamp") if before.status == HTTPStatus.OK else "first call"
        self.raw(path, "POST")
        failures = 0
        for _ in range(attempts - 1):
            time.sleep(pause * max(1.0, slowness_of_this_run()))
            reply = send(self._socket, "GET", "/updates/status")
            if reply.status == HTTPStatus.LOCKED:
                continue
            if reply.status != HTTPStatus.OK:
                failures += 1
                if failures == 5:
                    raise ApiClientError(f"Failed to check status 5 times after {path}, unsure of result")
                continue
            if self._field(reply, "cmd_type") == command and self._field(reply, "timestamp") != last:
                if self._field(reply, "cmd_status") != "Success":
                    raise ApiClientError(f"{command} attempt failed: {self._field(reply, 'stderr')}")
                status: dict[str, Any] = reply.document
                return status
        raise ApiClientError(f"Timed out after {path}, unsure of result")

    @staticmethod
    def _field(reply: Reply, name: str) -> str:
        return str(reply.document["most_recent_command"][name])


class Operator:
    """What the operator's agent does on a node: each step reads the status, and refuses an unexpected one.

    Args:
        socket: of the API.
    """

    def __init__(self, socket: Path) -> None:
        self._client = ApiClient(socket)

    def running_version(self) -> str:
        """Return the version that runs."""
        return msgspec.json.decode(self._raw("/os"), type=OperatorOs).version_id

    def chosen_update(self) -> str | None:
        """Refresh, and return the version to update to."""
        self._raw("/actions/refresh-updates", "POST")
        status = self.status()
        assert (status.most_recent_command.cmd_type, status.most_recent_command.cmd_status) == (
            "refresh",
            "Success",
        )
        return status.chosen_update.version if status.chosen_update else None

    def prepare_update(self) -> None:
        """Stage the update."""
        assert self.status().update_state in {"Available", "Staged"}
        self._raw("/actions/prepare-update", "POST")
        assert self.status().most_recent_command.cmd_type == "prepare"

    def activate_update(self) -> None:
        """Let it boot next."""
        assert self.status().update_state == "Staged"
        self._raw("/actions/activate-update", "POST")
        assert self.status().most_recent_command.cmd_type == "activate"

    def boot_into_update(self) -> None:
        """Restart."""
        assert self.status().update_state == "Ready"
        self._raw("/actions/reboot", "POST")

    def status(self) -> OperatorStatus:
        """Return the status. Raises msgspec.ValidationError if it cannot be read."""
        return msgspec.json.decode(self._raw("/updates/status"), type=OperatorStatus)

    def _raw(self, path: str, method: str = "GET") -> str:
        """Run ``apiclient raw`` until the API is not busy; the real one gives up after five times."""
        while True:
            try:
                return self._client.raw(path, method)
            except ApiClientError as error:
                if f"Status {HTTPStatus.LOCKED.value} " not in str(error):
                    raise
            time.sleep(0.1)
