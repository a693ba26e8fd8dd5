"""``repo.toml``: what a repository is called, how long its signatures last, and where its private keys are.

Rules:

* an unknown key is an error that names the nearest known one; all faults are reported at once;
* which key signs which role is said by the root metadata alone, so that it cannot be said twice; this
  file only says where the private half of a key is: ``keyid = "URI"``;
* URIs are those of securesystemslib (``file2:``, ``hsm:``, ``awskms:`` …); the path of a ``file2:`` is
  relative to the repository. A key that is not listed is simply not at hand (an offline root key);
* the file is the release engineer's: the program writes it once, with comments, and then only reads it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from repo_tools.errors import ConfigError
from repo_tools.quantities import parse_span
from signpost.errors import UsageError
from updog.update_metadata import fields
from updog.update_metadata.errors import FaultsError, TimeError
from updog.update_metadata.packs import MAX_DELTAS
from updog.update_metadata.sizes import parse_size
from updog.update_metadata.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FILE = "repo.toml"
ROLES = ("root", "targets", "snapshot", "timestamp")
SLOTS = ("boot", "root", "hash")
COMPRESSIONS = ("zstd", "lz4")
LEVELS = {"zstd": range(1, 23), "lz4": range(13)}
"""Levels of the two formats: those of `zstd --ultra` and of the LZ4 frame library."""

DEFAULT_COMPRESSION = "zstd"
DEFAULT_LEVELS = {"zstd": 16, "lz4": 9}
"""For zstd the level from which it looks for short strings far back (docs/adr/0009); upstream's for lz4."""

DEFAULT_DELTAS = 3
"""Earlier releases that deltas are made from: who skips more fetches a little more."""

DEFAULT_EXPIRES: Mapping[str, timedelta] = MappingProxyType(
    {
        "root": timedelta(weeks=52),
        "targets": timedelta(days=90),
        "snapshot": timedelta(days=30),
        "timestamp": timedelta(days=7),
    }
)
"""How long a signature lasts. The timestamp's bounds how long a frozen mirror goes unnoticed."""

SHORTEST_EXPIRY = timedelta(minutes=1)
"""Below this a repository is out of date before anybody has read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What ``repo.toml`` says.

    Attributes:
        name: first word of every image's target name.
        expires: how long a signature of each role lasts; all four roles are there.
        signers: keyid → URI of the private key, for the keys at hand.
        compression: ``zstd`` or ``lz4``. level: of that format.
        deltas: from how many of the last releases deltas are made.
        waves: name of the policy that `publish` takes when it is not told another.
        destination: where `push` goes when it is not told another place; empty for nowhere.
        slots: image → bytes of the nodes' partitions that hold it; nothing is known of those not named.
    """

    name: str
    expires: Mapping[str, timedelta]
    signers: Mapping[str, str]
    compression: str = DEFAULT_COMPRESSION
    level: int = DEFAULT_LEVELS[DEFAULT_COMPRESSION]
    deltas: int = DEFAULT_DELTAS
    waves: str = "default"
    destination: str = ""
    slots: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_toml(cls, text: str) -> Config:
        """Return the configuration written in ``text``. Raises ConfigError with every fault."""
        try:
            return _config(_toml(text))
        except FaultsError as error:
            faults = "\n".join(f"  {fault}" for fault in error.faults)
            raise ConfigError(f"{FILE} has faults:\n{faults}") from error


def load(folder: Path) -> Config:
    """Return the configuration of the repository in ``folder``. Raises ConfigError."""
    path = folder / FILE
    try:
        return Config.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def parse_expires(texts: Iterable[str] = ()) -> dict[str, timedelta]:
    """Return the four roles' expiries, defaults overridden by ``ROLE=7d`` words. Raises ConfigError."""
    expires = dict(DEFAULT_EXPIRES)
    for text in texts:
        role, _, span = text.partition("=")
        if role not in ROLES:
            raise ConfigError(
                f"--expires {text}: {role!r} is no role{fields.nearest(role, ROLES)}",
                next_step="Write it as ROLE=7d, ROLE being one of " + ", ".join(ROLES) + ".",
            )
        try:
            expires[role] = _expiry(span)
        except FaultsError as error:
            raise ConfigError(f"--expires {text}: {error.faults[0]}", next_step="Write ROLE=7d.") from error
    return expires


def _toml(text: str) -> object:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise fields.wrong(f"not TOML: {error}") from error


def _config(document: object) -> Config:
    table = fields.Fields(document)
    name = table.take("name", target_word)
    expires = table.maybe("expires", _expires) or dict(DEFAULT_EXPIRES)
    signers = table.maybe("signers", _signers) or {}
    images = table.maybe("images", _images) or _images({})
    waves = table.maybe("waves", _waves) or "default"
    destination = table.maybe("destination", fields.text) or ""
    slots = table.maybe("slots", _slots) or {}
    table.refuse_rest(["name", "expires", "signers", "images", "waves", "destination", "slots"])
    table.done()
    return Config(
        name=name,
        expires=expires,
        signers=signers,
        compression=images[0],
        level=images[1],
        deltas=images[2],
        waves=waves,
        destination=destination,
        slots=slots,
    )


def target_word(value: object) -> str:
    """Return one word of a target name: letters, digits, ``.``, ``_`` and ``-``. Raises FaultsError."""
    word = fields.text(value)
    if not word[0].isalnum() or not all(c.isascii() and (c.isalnum() or c in "._-") for c in word):
        raise fields.wrong(
            f"{fields.shown(value)} has characters a file name on a web server should not have"
        )
    return word


def _expires(value: object) -> dict[str, timedelta]:
    table = fields.Fields(value)
    given = {role: table.maybe(role, _expiry) for role in ROLES}
    table.refuse_rest(ROLES)
    table.done()
    return {role: given[role] or DEFAULT_EXPIRES[role] for role in ROLES}


def _expiry(value: object) -> timedelta:
    try:
        span = parse_span(fields.text(value))
    except TimeError as error:
        raise fields.wrong(error.message) from error
    if span < SHORTEST_EXPIRY:
        raise fields.wrong(f"{fields.shown(value)} is shorter than {format_duration(SHORTEST_EXPIRY)}")
    return span


def _slots(value: object) -> dict[str, int]:
    table = fields.Fields(value)
    given = {role: table.maybe(role, _size) for role in SLOTS}
    table.refuse_rest(SLOTS)
    table.done()
    return {role: size for role, size in given.items() if size is not None}


def _size(value: object) -> int:
    try:
        return parse_size(fields.text(value))
    except UsageError as error:
        raise fields.wrong(error.message) from error


def _signers(value: object) -> dict[str, str]:
    return dict(fields.pairs(value, _signer, most=1024))


def _signer(member: tuple[str, object]) -> tuple[str, str]:
    keyid, value = member
    uri = fields.text(value)
    if ":" not in uri:
        raise fields.wrong(f"{fields.shown(uri)} is no URI such as file2:keys/targets.pem")
    return keyid, uri


def _images(value: object) -> tuple[str, int, int]:
    table = fields.Fields(value)
    compression = table.maybe("compression", _compression) or DEFAULT_COMPRESSION
    level = table.maybe("level", fields.whole_number)
    deltas = table.maybe("deltas", _deltas)
    table.refuse_rest(["compression", "level", "deltas"])
    table.done()
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    check_level(compression, chosen)
    return compression, chosen, DEFAULT_DELTAS if deltas is None else deltas


def _deltas(value: object) -> int:
    number = fields.whole_number(value)
    if not 0 <= number <= MAX_DELTAS:
        raise fields.wrong(f"{number} is outside 0…{MAX_DELTAS}")
    return number


def _compression(value: object) -> str:
    name = fields.text(value)
    if name not in COMPRESSIONS:
        raise fields.wrong(
            f"{name!r} is none of {', '.join(COMPRESSIONS)}{fields.nearest(name, COMPRESSIONS)}"
        )
    return name


def check_level(compression: str, level: int) -> None:
    """Refuse a level the format does not have. Raises FaultsError."""
    levels = LEVELS[compression]
    if level not in levels:
        raise fields.wrong(f"level {level} of {compression} is outside {levels[0]}…{levels[-1]}")


def _waves(value: object) -> str:
    return fields.text(value)


def template(config: Config, comments: Mapping[str, str]) -> str:
    """Return the ``repo.toml`` of a new repository, each key explained; ``comments`` is keyid → its roles."""
    expires = "\n".join(f'{role} = "{format_duration(config.expires[role])}"' for role in ROLES)
    signers = "\n".join(
        f"{signer_line(keyid, uri)} # {comments[keyid]}" for keyid, uri in config.signers.items()
    )
    return _TEMPLATE.format(
        name=config.name,
        expires=expires,
        signers=signers,
        compression=config.compression,
        level=config.level,
        deltas=config.deltas,
        waves=config.waves,
    )


def signer_line(keyid: str, uri: str) -> str:
    """Return the line that says where a key's private half is."""
    return f"{keyid} = {_quoted(uri)}"


def _quoted(uri: str) -> str:
    import json

    return json.dumps(uri, ensure_ascii=False)  # a TOML basic string has JSON's escapes


_TEMPLATE = """\
# A repository of updates, made by `repo-tools new`. This file is yours: repo-tools only reads it.
# An unknown key is an error.

# First word of every image's name: NAME-VARIANT-ARCH-VERSION-boot.ext4.zst
name = "{name}"

# The wave policy of `repo-tools publish` when --waves is not given: default, accelerated, slow-roll, ohno,
# the path of a policy file, or none (open to the whole fleet at once).
waves = "{waves}"

# Where `repo-tools push` uploads to when it is not told: s3://BUCKET/PREFIX, or a web server's folder.
# destination = "s3://updates-example/os"

# How new images are compressed: zstd (1 to 22; nodes fetch only the parts they lack) or lz4 (0 to 12; whole,
# as Bottlerocket's own updog reads them); and from how many of the last releases deltas are made.
[images]
compression = "{compression}"
level = {level}
deltas = {deltas}

# How large the nodes' partitions are: `validate` says which release does not fit.
# [slots]
# boot = "64MiB"
# root = "2GiB"
# hash = "64MiB"

# How long signatures last: minutes, hours, days or weeks. `repo-tools refresh` re-signs in time.
[expires]
{expires}

# Where the private keys at hand are: KEYID = "URI": file2:PATH (relative to this file's folder), envvar:NAME
# (a PEM in an environment variable), hsm:, awskms:, and whatever else securesystemslib understands. Which
# role a key signs for is in the root metadata: `repo-tools root show`.
[signers]
{signers}
"""
