"""The client of a FleetLock server: one request, one answer. It runs in a child process of the daemon.

FleetLock version 1 (zincati, docs/development/fleetlock/protocol.md), and what its servers make of it:

* ``POST BASE/v1/pre-reboot`` asks for the lock, ``POST BASE/v1/steady-state`` gives it back. Both are always
  appended to the base URL, whether that ends with a slash or not. The header ``fleet-lock-protocol: true``
  is required;
* 200 is the only yes. A web page is not one, whatever its status: a captive portal answers for any server;
* 202 means that the server still drains this node (heathcliff26's server): not yet, ask again;
* 423 ``lock_held`` at steady-state means that another node has the lock: this one does not, so it is
  released (poseidon's server, which has a single slot);
* an error of the protocol (JSON with ``kind`` and ``value``, whatever its Content-Type; airlock sends 500
  when all slots are taken) is a no. Any other answer, and none, has failed: whether the lock was given is
  then unknown, and the caller treats it as one that may be held;
* no redirect is followed, not even on the same host: the header is there to prevent redirected requests;
* there is no time limit on a lock (TTL): it is held until it is released;
* one request, and no second try: the table decides when to ask again (:mod:`updog.auto.table`).

Two machines with one machine-id (clones of an image that has one) have one identity: the server takes them
for one node, and both may restart at once. Each node must have a machine-id of its own.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from signpost.text import FOREIGN_CHARACTERS, foreign, line
from updog.errors import ConfigError, UnreachableError
from updog.url import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from updog.auto.policy import FleetLock
    from updog.config import Config
    from updog.transport import HttpAnswer

ZINCATI = "zincati"
"""The word for the identity that zincati derives from the machine-id."""

_ZINCATI_APP = bytes.fromhex("de35106b6ec24688b63afddaa156679b")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_MAX_BODY_BYTES = 1 << 16  # an error is a kind and a sentence
_KIND_CHARACTERS = 64  # the protocol: of small cardinality, so that it can label a metric
_DONE, _ACCEPTED, _LOCKED = 200, 202, 423
_REDIRECTS = range(300, 400)


class Request(StrEnum):
    """The two requests of the protocol, by their paths."""

    LOCK = "pre-reboot"
    UNLOCK = "steady-state"


class Answer(StrEnum):
    """What the server said: yes, no (or not yet), or nothing that counts."""

    YES = "yes"
    NO = "no"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockAnswer:
    """The answer to one request.

    Attributes:
        kind: of the server's error, or zincati's name for one without a kind; a metric's label. Empty: none.
        value: the server's words; empty: none. sentence: what happened, for an operator.
        next_step: what to do about it, where that is known.
    """

    answer: Answer
    sentence: str
    kind: str = ""
    value: str = ""
    next_step: str = ""

    def to_document(self) -> dict[str, str]:
        """Return the document that the command prints."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Return the answer in a document that the command printed. Raises ValueError if it is not one."""
        try:
            answer = Answer(document["answer"])
            texts = {name: document[name] for name in ("sentence", "kind", "value", "next_step")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an answer of the fleet lock: {error!r}") from error
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not an answer of the fleet lock: a member is not a text")
        return cls(answer=answer, **texts)


def zincati_id(machine_id: str) -> str:
    """Return the identity that zincati uses on the machine with this machine-id.

    systemd's application-specific id, sd_id128_get_machine_app_specific(3), with zincati's application id.
    Servers on Kubernetes find the Node of a request by this formula.

    Raises:
        ValueError: it is not a machine-id, machine-id(5).
    """
    import hmac

    text = machine_id.strip()
    if not _MACHINE_ID.fullmatch(text) or not int(text, 16):
        raise ValueError("not a machine-id of 32 lower-case hexadecimal digits")
    digest = bytearray(hmac.digest(bytes.fromhex(text), _ZINCATI_APP, "sha256")[:16])
    digest[6] = digest[6] & 0x0F | 0x40  # RFC 9562, 5.4: a UUID of version 4 ...
    digest[8] = digest[8] & 0x3F | 0x80  # ... and of its variant
    return digest.hex()


def identity(lock: FleetLock, config: Config) -> str:
    """Return the identity of this node for the server. Raises ConfigError if it has none."""
    if lock.id != ZINCATI:
        return lock.id
    try:
        return zincati_id(config.read_machine_id())
    except (OSError, ValueError) as error:
        message = f"this node has no identity for the fleet lock: {config.machine_id}: {error}"
        next_step = "Give the node a machine-id of its own, or set `id` of the fleet lock."
        raise ConfigError(message, next_step=next_step) from error


def ask(lock: FleetLock, config: Config, request: Request, about: Mapping[str, str]) -> LockAnswer:
    """Send one request and return its answer.

    Args:
        lock: the server, and how to reach it.
        config: the proxies, the time limit for connecting, and the machine-id.
        request: lock or unlock.
        about: members ``from``, ``to`` and ``outcome`` for the server's log; may be empty.

    Raises:
        ConfigError: this node has no identity.
    """
    from updog.transport import HttpTransport, TransportSettings

    base = lock.base_url.folder()
    document = {"client_params": {"id": identity(lock, config), "group": lock.group}, "updog": dict(about)}
    settings = TransportSettings(
        connect_timeout=config.connect_timeout,
        stall_timeout=lock.timeout.total_seconds(),
        https_proxy=config.https_proxy,
        no_proxy=config.no_proxy,
        ca_file=_text(lock.ca_file),
        client_certificate=_text(lock.client_certificate),
        client_key=_text(lock.client_key),
        urls=(base,),
    )
    headers = {"fleet-lock-protocol": "true", "Content-Type": "application/json"}
    url = base.below(f"v1/{request.value}")
    with closing(HttpTransport(settings)) as transport:
        try:
            answer = transport.post(url, json.dumps(document).encode(), headers, limit=_MAX_BODY_BYTES)
        except UnreachableError as error:
            return LockAnswer(
                answer=Answer.FAILED,
                kind="client_failed_request",  # zincati's name
                sentence=f"The fleet lock cannot be reached: {error.message}",
                next_step=error.next_step,
            )
    return judged(answer, request, url)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def judged(answer: HttpAnswer, request: Request, url: str) -> LockAnswer:
    """Return what an HTTP answer means; ``url`` is named where it is not one of a FleetLock server."""
    from updog.transport.body import is_web_page

    status = answer.status
    kind, value = _error(answer.body)
    if is_web_page(answer.body):
        return LockAnswer(
            answer=Answer.FAILED,
            kind=f"generic_http_{status}",
            sentence=f"{url} answered HTTP {status} with a web page.",
            next_step="Check `base_url` of the fleet lock, and whether this network asks for a login.",
        )
    if status == _DONE:
        done = "was given" if request is Request.LOCK else "is released"
        return LockAnswer(answer=Answer.YES, sentence=f"The fleet lock {done}.")
    said = f" ({kind})" if kind else ""
    said += f": {foreign(value)}" if value else ""
    if status == _ACCEPTED:
        sentence = f"The fleet lock server still prepares this node{said}. Ask again."
        return LockAnswer(answer=Answer.NO, kind=kind, value=value, sentence=sentence)
    if request is Request.UNLOCK and status == _LOCKED and kind == "lock_held":
        sentence = f"This node does not hold the fleet lock{said}."
        return LockAnswer(answer=Answer.YES, kind=kind, value=value, sentence=sentence)
    if (kind and value and status not in _REDIRECTS) or status == _LOCKED:
        done = "given" if request is Request.LOCK else "released"
        sentence = f"The fleet lock was not {done}: HTTP {status}{said}."
        kind = kind or f"generic_http_{status}"
        return LockAnswer(answer=Answer.NO, kind=kind, value=value, sentence=sentence)
    if status in _REDIRECTS:
        sentence = f"{url} answered HTTP {status}{_leading_to(answer)}, and redirects are not followed."
    else:
        sentence = f"{url} answered HTTP {status} instead of a fleet lock's 200."
    return LockAnswer(
        answer=Answer.FAILED,
        kind=f"generic_http_{status}",
        sentence=sentence,
        next_step="Check `base_url` of the fleet lock, and the logs of its server.",
    )


def _leading_to(answer: HttpAnswer) -> str:
    return f", a redirect to {without_secrets(foreign(answer.location))}" if answer.location else ""


def _error(body: bytes) -> tuple[str, str]:
    """Return kind and value of an error of the protocol, printable and cut; empty where there is none."""
    try:
        # neither other bytes than UTF-8 nor control characters in a text hide what the server says
        document = json.loads(body.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    kind, value = document.get("kind"), document.get("value")
    return (
        line(kind, _KIND_CHARACTERS) if isinstance(kind, str) else "",
        line(value, FOREIGN_CHARACTERS) if isinstance(value, str) else "",
    )
