"""``repo.toml``: a repository's name, how long its signatures are valid, and where its private keys are.

Rules:

* an unknown key is an error that names the nearest known one; all faults are reported at once;
* which key signs which role is defined in the root metadata only, so that there is one source of truth;
  this file only says where the private half of a key is: ``keyid = "URI"``;
* URIs are those of securesystemslib (``file2:``, ``hsm:``, ``awskms:`` …); the path of a ``file2:`` URI is
  relative to the repository. A key that is not listed is not available here (an offline root key);
* the file belongs to the release engineer: the program writes it once, with comments, then only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from repo_tools.errors import ConfigError
from repo_tools.quantities import parse_span
from signpost.errors import UsageError
from signpost.sets import ImageKind
from signpost.toml_file import parse_toml, read_text
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
ONLINE_ROLES = ROLES[1:]
"""Roles whose keys must be available where a repository is refreshed."""

COMPRESSIONS = ("zstd", "lz4")
LEVELS = {"zstd": range(1, 23), "lz4": range(13)}
"""Compression levels of the two formats: those of `zstd --ultra` and of the LZ4 frame library."""

DEFAULT_COMPRESSION = "zstd"
DEFAULT_LEVELS = {"zstd": 16, "lz4": 9}
"""For zstd the first level that finds short matches far back (docs/adr/0009); for lz4 upstream's default."""

DEFAULT_DELTAS = 3
"""Number of earlier releases to make deltas from. A node that skips more releases fetches a little more."""

DEFAULT_EXPIRES: Mapping[str, timedelta] = MappingProxyType(
    {
        "root": timedelta(weeks=52),
        "targets": timedelta(days=90),
        "snapshot": timedelta(days=30),
        "timestamp": timedelta(days=7),
    }
)
"""How long a signature is valid. The timestamp's limits how long a frozen mirror can stay unnoticed."""

SHORTEST_EXPIRY = timedelta(minutes=1)
"""A shorter validity would expire before any node has read the repository."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The content of ``repo.toml``.

    Attributes:
        name: first word of every image's target name.
        expires: role → how long its signature is valid; all four roles are present.
        signers: keyid → URI of the private key, for the available keys.
        compression: ``zstd`` or ``lz4``. level: compression level of that format.
        deltas: number of earlier releases to make deltas from.
        waves: wave policy of `publish` when none is given.
        destination: destination of `push` when none is given; empty for none.
        slots: image → size in bytes of the nodes' partition for it; a missing image is not checked.
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
        """Return the configuration in ``text``. Raises ConfigError, which lists every fault."""
        try:
            return _config(parse_toml(text, fields.invalid))
        except FaultsError as error:
            faults = "\n".join(f"  {fault}" for fault in error.faults)
            raise ConfigError(f"{FILE} has faults:\n{faults}") from error


def load(folder: Path) -> Config:
    """Return the configuration of the repository in ``folder``. Raises ConfigError."""
    return Config.from_toml(read_text(folder / FILE, ConfigError))


def parse_expires(texts: Iterable[str] = ()) -> dict[str, timedelta]:
    """Return the validity of the four roles: the defaults, overridden by ``ROLE=7d``. Raises ConfigError."""
    expires = dict(DEFAULT_EXPIRES)
    for text in texts:
        role, _, span = text.partition("=")
        if role not in ROLES:
            raise ConfigError(
                f"--expires {text}: {role!r} is not a role{fields.did_you_mean(role, ROLES)}",
                next_step="Write it as ROLE=7d, where ROLE is one of " + ", ".join(ROLES) + ".",
            )
        try:
            expires[role] = _expiry(span)
        except FaultsError as error:
            raise ConfigError(
                f"--expires {text}: {error.faults[0]}", next_step="Write it as ROLE=7d."
            ) from error
    return expires


def _config(document: object) -> Config:
    table = fields.Fields(document)
    name = table.required("name", target_word)
    expires = table.optional("expires", _expires) or dict(DEFAULT_EXPIRES)
    signers = dict(table.optional("signers", lambda value: fields.pairs(value, _signer, limit=1024)) or ())
    images = table.optional("images", _images) or _images({})
    waves = table.optional("waves", fields.text) or "default"
    destination = table.optional("destination", fields.text) or ""
    slots = table.optional("slots", _slots) or {}
    table.refuse_unknown(["name", "expires", "signers", "images", "waves", "destination", "slots"])
    table.raise_faults()
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
        raise fields.invalid(
            f"{fields.excerpt(value)} is not safe in a file name: start with a letter or digit, and use only "
            "letters, digits, '.', '_' and '-'"
        )
    return word


def _expires(value: object) -> dict[str, timedelta]:
    table = fields.Fields(value)
    given = {role: table.optional(role, _expiry) for role in ROLES}
    table.refuse_unknown(ROLES)
    table.raise_faults()
    return {role: given[role] or DEFAULT_EXPIRES[role] for role in ROLES}


def parse_validity(text: str) -> timedelta:
    """Return how long a signature is valid, such as ``52w``. Raises TimeError, also if it is too short."""
    span = parse_span(text)
    if span < SHORTEST_EXPIRY:
        raise TimeError(f"{text!r} is shorter than {format_duration(SHORTEST_EXPIRY)}")
    return span


def _expiry(value: object) -> timedelta:
    try:
        return parse_validity(fields.text(value))
    except TimeError as error:
        raise fields.invalid(error.message) from error


def _slots(value: object) -> dict[str, int]:
    table = fields.Fields(value)
    given = {str(kind): table.optional(kind, _size) for kind in ImageKind}
    table.refuse_unknown(tuple(ImageKind))
    table.raise_faults()
    return {kind: size for kind, size in given.items() if size is not None}


def _size(value: object) -> int:
    try:
        return parse_size(fields.text(value))
    except UsageError as error:
        raise fields.invalid(error.message) from error


def _signer(member: tuple[str, object]) -> tuple[str, str]:
    keyid, value = member
    uri = fields.text(value)
    if ":" not in uri:
        raise fields.invalid(f"{fields.excerpt(uri)} is not a URI such as file2:keys/targets.pem")
    return keyid, uri


def _images(value: object) -> tuple[str, int, int]:
    table = fields.Fields(value)
    compression = table.optional("compression", _compression) or DEFAULT_COMPRESSION
    level = table.optional("level", fields.whole_number)
    deltas = table.optional("deltas", _deltas)
    table.refuse_unknown(["compression", "level", "deltas"])
    table.raise_faults()
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    check_level(compression, chosen)
    return compression, chosen, DEFAULT_DELTAS if deltas is None else deltas


def _deltas(value: object) -> int:
    number = fields.whole_number(value)
    if not 0 <= number <= MAX_DELTAS:
        raise fields.invalid(f"{number} is outside 0…{MAX_DELTAS}")
    return number


def _compression(value: object) -> str:
    name = fields.text(value)
    if name not in COMPRESSIONS:
        raise fields.invalid(
            f"{name!r} is not one of {', '.join(COMPRESSIONS)}{fields.did_you_mean(name, COMPRESSIONS)}"
        )
    return name


def check_level(compression: str, level: int) -> None:
    """Refuse a compression level that the format does not have. Raises FaultsError."""
    levels = LEVELS[compression]
    if level not in levels:
        raise fields.invalid(f"level {level} of {compression} is outside {levels[0]}…{levels[-1]}")


def template(config: Config, comments: Mapping[str, str]) -> str:
    """Return the commented ``repo.toml`` of a new repository; ``comments`` maps a keyid to its roles."""
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
    """Return the line of ``[signers]`` that says where a key's private half is."""
    import json

    return f"{keyid} = {json.dumps(uri, ensure_ascii=False)}"  # a TOML basic string has JSON's escapes


def missing_signer_lines(folder: Path, uris: Mapping[str, str]) -> list[str]:
    """Return the lines that ``[signers]`` of a repository lacks for these keys: keyid → URI.

    Raises:
        ConfigError: repo.toml cannot be read.
    """
    known = load(folder).signers
    return [signer_line(keyid, uri) for keyid, uri in uris.items() if keyid not in known]


_TEMPLATE = """\
# An update repository, created by `repo-tools new`. This file is yours: repo-tools only reads it.
# An unknown key is an error.

# First word of every image's name: NAME-VARIANT-ARCH-VERSION-boot.ext4.zst
name = "{name}"

# The wave policy of `repo-tools publish` when --waves is not given: default, accelerated, slow-roll, ohno,
# the path of a policy file, or none (open to the whole fleet at once).
waves = "{waves}"

# Where `repo-tools push` uploads to by default: s3://BUCKET/PREFIX, or a web server's folder.
# destination = "s3://updates-example/os"

# How new images are compressed: zstd (1 to 22; nodes fetch only the parts that they do not have) or lz4
# (0 to 12; nodes fetch all of it, as Bottlerocket's own updog does); and from how many of the last releases
# deltas are made.
[images]
compression = "{compression}"
level = {level}
deltas = {deltas}

# Sizes of the nodes' partitions: `validate` reports a release that does not fit.
# [slots]
# boot = "64MiB"
# root = "2GiB"
# hash = "64MiB"

# How long signatures are valid: minutes, hours, days or weeks. `repo-tools refresh` re-signs in time.
[expires]
{expires}

# Where the available private keys are: KEYID = "URI", with file2:PATH (relative to this file's folder),
# envvar:NAME (a PEM in an environment variable), hsm:, awskms:, or any other URI of securesystemslib. Which
# role a key signs for is in the root metadata: see `repo-tools root show`.
[signers]
{signers}
"""
