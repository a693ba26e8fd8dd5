"""``[api]`` of ``updog.toml``: the sockets of the agent's API, and who may do what there.

The table :data:`API_KEYS` defines all names, types, defaults (as TOML has them) and meanings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from updog.config_key import BadValueError, Key, read_keys, to_path, to_texts, to_whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_TABLE = "api"
_MAX_PATH = 107  # bytes of sockaddr_un.sun_path, without the zero at its end
_NAMED = re.compile(r"(user|group):([A-Za-z0-9_.][A-Za-z0-9_.-]*\$?)")


class Kind(StrEnum):
    """What a :class:`Grantee` is."""

    ANY = "any"
    ROOT = "root"
    USER = "user"
    GROUP = "group"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grantee:
    """Who is granted a right: everybody, root, or a user or group by ``name``."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        """Return it as the configuration has it."""
        return f"{self.kind}:{self.name}" if self.name else self.kind.value

    @classmethod
    def parse(cls, word: str) -> Grantee:
        """Return what the configuration's word means. Raises BadValueError."""
        if word in {Kind.ANY, Kind.ROOT}:
            return cls(kind=Kind(word))
        match = _NAMED.fullmatch(word)
        if match is None:
            raise BadValueError
        return cls(kind=Kind(match[1]), name=match[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """The settings of ``[api]``.

    Attributes:
        socket: path of the socket; None: no API.
        bottlerocket_socket: path of a socket with Bottlerocket's paths only; None: none.
        read: who may read. control: who may also change something.
        max_clients: connections at the same time.
    """

    socket: Path | None
    bottlerocket_socket: Path | None
    read: tuple[Grantee, ...]
    control: tuple[Grantee, ...]
    max_clients: int


def _socket(value: Any, folder: Path) -> Path | None:
    if value == "":
        return None
    path = to_path(value, folder)
    if len(bytes(path)) > _MAX_PATH:
        raise BadValueError
    return path


def _grantees(value: Any, folder: Path) -> tuple[Grantee, ...]:
    return tuple(Grantee.parse(word) for word in to_texts(value, folder))


_SOCKET = f"a path of at most {_MAX_PATH} bytes, or an empty text"
_GRANTEES = 'a list of "any", "root", "user:NAME" and "group:NAME"'

API_KEYS: tuple[Key, ...] = (
    Key(
        name="api.socket",
        convert=_socket,
        takes=_SOCKET,
        default="/run/updog/api.sock",
        meaning="the socket of the agent's API, in a folder that only root can write. Empty: the agent opens "
        "none; one that systemd opens (updog-agent.socket) is answered all the same",
    ),
    Key(
        name="api.bottlerocket_socket",
        convert=_socket,
        takes=_SOCKET,
        default="",
        meaning="a second socket with Bottlerocket's paths only, such as /run/api.sock, for its apiclient; "
        "whoever can open it may control. Empty: none, unless systemd opens it (updog-bottlerocket.socket)",
    ),
    Key(
        name="api.read",
        convert=_grantees,
        takes=_GRANTEES,
        default=["any"],
        meaning="who may read status, history and events",
    ),
    Key(
        name="api.control",
        convert=_grantees,
        takes=_GRANTEES,
        default=["root", "group:updog"],
        meaning="who may also start jobs, permit, postpone, hold, and read the configuration",
    ),
    Key(
        name="api.max_clients",
        convert=to_whole_number(1, 1000),
        takes="a whole number from 1 to 1000",
        default=32,
        meaning="connections at the same time, the last one for root; one more is answered with status 503",
    ),
)


class ApiTable:
    """What a file says about the API.

    Args:
        document: the value of ``api`` in the file; None: it is not there.
        folder: of the file.
        elsewhere: where in the file each key belongs (:func:`updog.config_key.homes`).

    Attributes:
        values: of every key by its dotted name. given: the dotted names that the file has.
        faults: what is wrong, a sentence each.
    """

    def __init__(self, document: Any, folder: Path, elsewhere: Mapping[str, Sequence[str]]) -> None:
        keys = {key.name.partition(".")[2]: key for key in API_KEYS}
        self.faults: list[str] = []
        if not isinstance(document, dict | None):
            self.faults.append(f"{_TABLE} = {document!r}: must be a table, [{_TABLE}]")
            document = None
        found, faults = read_keys(document or {}, keys, folder, below=(), elsewhere=elsewhere, name=_TABLE)
        self.faults += faults
        self.given = {f"{_TABLE}.{name}" for name in found}
        self._values = {name: key.convert(key.default, folder) for name, key in keys.items()} | found

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield each key by its dotted name, with its value."""
        for name, value in self._values.items():
            yield f"{_TABLE}.{name}", value

    def settings(self) -> ApiSettings:
        """Return the settings; only if there are no faults."""
        return ApiSettings(**self._values)
