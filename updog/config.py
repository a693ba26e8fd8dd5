"""``updog.toml``: Bottlerocket's keys as they are, ours beside them.

Rules it enforces:

* an unknown key is an error that names the nearest known one (zincati's users lost settings to typing
  mistakes that nobody reported);
* all faults of a file are reported at once, each by its key;
* relative paths are taken from the folder of the file, so that a node in a folder can be moved.

The table :data:`KEYS` is the one home of names, types, defaults and meanings; the reference page
``docs/reference/updog.toml.md`` is generated from it.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updog.errors import ConfigError
from updog.update_metadata.errors import TimeError, VersionError
from updog.update_metadata.seeds import MAX_SEED, machine_seed
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

VITALS = ("failed-units", "default-route", "name-resolution", "free-space", "clock")
"""Names of the built-in health checks; :mod:`updog.vitals` has one function for each."""

DEFAULT_PATH = Path("/etc/updog.toml")
_LATEST = "latest"
_MAX_TRIES = 15  # four bits of the GPT attribute field


class _BadValueError(ValueError):
    """A value of the right TOML syntax that this key cannot take; the text says what it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One line of the configuration reference."""

    name: str
    convert: Callable[[Any, Path], Any]
    takes: str
    default: Any
    meaning: str
    upstream: bool = False
    required: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The node's settings, validated. Field meanings and units: :data:`KEYS`."""

    metadata_base_url: str
    targets_base_url: str
    metadata_mirrors: tuple[str, ...]
    targets_mirrors: tuple[str, ...]
    seed: int | None
    version_lock: Version | None
    ignore_waves: bool
    https_proxy: str | None
    no_proxy: tuple[str, ...]
    ca_file: Path | None
    client_certificate: Path | None
    client_key: Path | None
    variant: str | None
    arch: str
    channel: str | None
    trusted_root: Path
    accept_expired_until: datetime | None
    state_dir: Path
    disk: Path | None
    os_release: Path
    boot_record: Path | None
    machine_id: Path
    tries: int
    spool: bool
    cache_dir: Path | None
    send_query: bool
    health_dir: Path
    health_checks: tuple[str, ...]
    health_warnings: tuple[str, ...]
    health_timeout: int
    health_deadline: int
    stability_window: int
    pstore_dirs: tuple[Path, ...]
    motd_file: Path | None
    metrics_file: Path | None
    report_url: str | None
    reboot_command: tuple[str, ...]
    connect_timeout: int
    stall_timeout: int
    minimum_rate: int
    limit_rate: int
    download_tries: int

    @property
    def manifest_name(self) -> str:
        """The TUF target that holds the manifest of this node's channel."""
        return f"{self.channel}/manifest.json" if self.channel else "manifest.json"

    @property
    def roomy_dir(self) -> Path:
        """Where what is large goes: images, until they are written."""
        return self.cache_dir or self.state_dir

    def wave_seed(self) -> int:
        """The node's place in the waves, 0 … 2047: configured, or from its machine-id.

        Raises:
            ConfigError: neither a seed nor a machine-id is there.
        """
        if self.seed is not None:
            return self.seed
        try:
            return machine_seed(self.machine_id.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            message = f"no seed is configured and {self.machine_id} cannot be read: {error}"
            raise ConfigError(message, next_step="Set `seed` (0 to 2047) in the configuration.") from error


def _text(value: Any, _folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise _BadValueError
    return value


def _url(value: Any, folder: Path) -> str:
    text = _text(value, folder)
    if not text.startswith(("http://", "https://", "file:///")):
        raise _BadValueError
    return text if text.endswith("/") else f"{text}/"


def _urls(value: Any, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _BadValueError
    return tuple(_url(item, folder) for item in value)


def _channel(value: Any, folder: Path) -> str:
    text = _text(value, folder)
    if not all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in text):
        raise _BadValueError
    return text


def _flag(value: Any, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise _BadValueError
    return value


def _texts(value: Any, _folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _BadValueError
    return tuple(value)


def _checks(value: Any, folder: Path) -> tuple[str, ...]:
    names = _texts(value, folder)
    if not set(names) <= set(VITALS):
        raise _BadValueError
    return names


def _path(value: Any, folder: Path) -> Path:
    return folder / _text(value, folder)


def _paths(value: Any, folder: Path) -> tuple[Path, ...]:
    return tuple(folder / text for text in _texts(value, folder))


def _web_address(value: Any, folder: Path) -> str:
    text = _text(value, folder)
    if not text.startswith(("http://", "https://")) or "#" in text:
        raise _BadValueError
    return text


def _lock(value: Any, folder: Path) -> Version | None:
    text = _text(value, folder)
    try:
        return None if text == _LATEST else Version.parse_friendly(text)
    except VersionError as error:
        raise _BadValueError from error


def _moment(value: Any, folder: Path) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    try:
        return parse_time(_text(value, folder))
    except TimeError as error:
        raise _BadValueError from error


def _whole(least: int, most: int) -> Callable[[Any, Path], int]:
    """Return a converter for whole numbers from ``least`` to ``most``."""

    def convert(value: Any, _folder: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _BadValueError
        return value

    return convert


_DAY_SECONDS = 86_400
_GIBIBYTE = 1 << 30

KEYS: tuple[Key, ...] = (
    Key(
        name="metadata_base_url",
        convert=_url,
        takes="an http, https or file URL",
        default=None,
        meaning="where N.root.json, timestamp.json … are",
        upstream=True,
        required=True,
    ),
    Key(
        name="targets_base_url",
        convert=_url,
        takes="an http, https or file URL",
        default=None,
        meaning="where the targets are",
        upstream=True,
        required=True,
    ),
    Key(
        name="metadata_mirrors",
        convert=_urls,
        takes="a list of http, https or file URLs",
        default=(),
        meaning="where the same metadata is too; the next one is asked when one fails or is not believed",
    ),
    Key(
        name="targets_mirrors",
        convert=_urls,
        takes="a list of http, https or file URLs",
        default=(),
        meaning="where the same targets are too; the next one is asked when one fails or sends wrong bytes",
    ),
    Key(
        name="seed",
        convert=_whole(0, MAX_SEED - 1),
        takes=f"a whole number from 0 to {MAX_SEED - 1}",
        default=None,
        meaning="place in the waves; without it one is taken from machine-id",
        upstream=True,
    ),
    Key(
        name="version_lock",
        convert=_lock,
        takes='"latest" or a version',
        default=None,
        meaning='"latest", or take exactly this version, up or down',
        upstream=True,
    ),
    Key(
        name="ignore_waves",
        convert=_flag,
        takes="true or false",
        default=False,
        meaning="take updates before their wave opens",
        upstream=True,
    ),
    Key(
        name="https_proxy",
        convert=_text,
        takes="a proxy URL",
        default=None,
        meaning="proxy of all requests",
        upstream=True,
    ),
    Key(
        name="no_proxy",
        convert=_texts,
        takes="a list of host names",
        default=(),
        meaning="hosts reached without the proxy",
        upstream=True,
    ),
    Key(
        name="ca_file",
        convert=_path,
        takes="a path",
        default=None,
        meaning="PEM certificates that vouch for servers, in the place of the usual ones",
    ),
    Key(
        name="client_certificate",
        convert=_path,
        takes="a path",
        default=None,
        meaning="PEM certificate this node shows to the configured servers; its key may be in the same file",
    ),
    Key(
        name="client_key",
        convert=_path,
        takes="a path",
        default=None,
        meaning="PEM key of client_certificate, if it is a file of its own",
    ),
    Key(
        name="variant",
        convert=_text,
        takes="a text",
        default=None,
        meaning="overrides VARIANT_ID of os-release",
    ),
    Key(
        name="arch",
        convert=_text,
        takes="a text",
        default=os.uname().machine,
        meaning="overrides the machine's architecture",
    ),
    Key(
        name="channel",
        convert=_channel,
        takes="letters, digits, '.', '_' and '-'",
        default=None,
        meaning="follow this channel: <channel>/manifest.json and what the channel's own keys sign for it",
    ),
    Key(
        name="trusted_root",
        convert=_path,
        takes="a path",
        default=Path("/usr/share/updog/root.json"),
        meaning="the TUF root shipped in the image",
    ),
    Key(
        name="accept_expired_until",
        convert=_moment,
        takes="a time with its zone, such as 2027-01-31T00:00:00Z",
        default=None,
        meaning="believe expired metadata until then (an air gap); all other checks stay",
    ),
    Key(
        name="state_dir",
        convert=_path,
        takes="a path",
        default=Path("/var/lib/updog"),
        meaning="state kept between runs and across both slots",
    ),
    Key(
        name="disk",
        convert=_path,
        takes="a path",
        default=None,
        meaning="the disk with the two slots; without it the disk of the running root",
    ),
    Key(
        name="os_release",
        convert=_path,
        takes="a path",
        default=Path("/usr/lib/os-release"),
        meaning="VERSION_ID and VARIANT_ID of the running system",
    ),
    Key(
        name="boot_record",
        convert=_path,
        takes="a path",
        default=None,
        meaning="where a boot stage left which slot it took; without it the slot is found through dm-verity",
    ),
    Key(
        name="machine_id",
        convert=_path,
        takes="a path",
        default=Path("/etc/machine-id"),
        meaning="stable identity that gives the seed",
    ),
    Key(
        name="tries",
        convert=_whole(1, _MAX_TRIES),
        takes=f"a whole number from 1 to {_MAX_TRIES}",
        default=1,
        meaning="boots a new slot may use before it is confirmed",
    ),
    Key(
        name="spool",
        convert=_flag,
        takes="true or false",
        default=True,
        meaning="keep and verify updates of up to 64 MiB before the slot is touched, where there is room",
    ),
    Key(
        name="cache_dir",
        convert=_path,
        takes="a path",
        default=None,
        meaning="where images are kept until they are written; without it state_dir",
    ),
    Key(
        name="send_query",
        convert=_flag,
        takes="true or false",
        default=True,
        meaning="send seed, version and target as query parameters, as upstream does",
    ),
    Key(
        name="health_dir",
        convert=_path,
        takes="a path",
        default=Path("/etc/updog/health.d"),
        meaning="executables in required/ and wanted/ that `confirm` runs",
    ),
    Key(
        name="health_checks",
        convert=_checks,
        takes=f"a list of {', '.join(VITALS)}",
        default=("failed-units", "free-space", "clock"),
        meaning="built-in checks that `confirm` requires, beside those in health_dir",
    ),
    Key(
        name="health_warnings",
        convert=_checks,
        takes=f"a list of {', '.join(VITALS)}",
        default=(),
        meaning="built-in checks that `confirm` only warns about",
    ),
    Key(
        name="health_timeout",
        convert=_whole(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=60,
        meaning="time one health check may take (seconds)",
    ),
    Key(
        name="health_deadline",
        convert=_whole(0, _DAY_SECONDS),
        takes="seconds, 0 to 86400",
        default=300,
        meaning="time within which the checks have to pass; failing ones are repeated until then, and all of "
        "them together may take so long, or health_timeout where that is longer (seconds)",
    ),
    Key(
        name="stability_window",
        convert=_whole(0, _DAY_SECONDS),
        takes="seconds, 0 to 86400",
        default=30,
        meaning="how long the checks have to keep passing before a boot is confirmed (seconds)",
    ),
    Key(
        name="pstore_dirs",
        convert=_paths,
        takes="a list of paths",
        default=(Path("/sys/fs/pstore"), Path("/var/lib/systemd/pstore")),
        meaning="where kernels leave their last words, for the cause of a fallback; nothing there is changed",
    ),
    Key(
        name="motd_file",
        convert=_path,
        takes="a path",
        default=None,
        meaning="file kept as `updog motd` has it, such as /run/motd.d/updog",
    ),
    Key(
        name="metrics_file",
        convert=_path,
        takes="a path",
        default=None,
        meaning="file of metrics for Prometheus' node_exporter, such as /var/lib/node_exporter/updog.prom",
    ),
    Key(
        name="report_url",
        convert=_web_address,
        takes="an http or https URL",
        default=None,
        meaning="where an outcome line goes after a confirm or a fallback; without it none is sent",
    ),
    Key(
        name="reboot_command",
        convert=_texts,
        takes="a list of words",
        default=("systemctl", "reboot"),
        meaning="what --reboot and a fallback run; an empty list: nothing",
    ),
    Key(
        name="connect_timeout",
        convert=_whole(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=10,
        meaning="time to connect (seconds)",
    ),
    Key(
        name="stall_timeout",
        convert=_whole(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=30,
        meaning="time for the head of an answer, and later without content, before it is given up (seconds)",
    ),
    Key(
        name="minimum_rate",
        convert=_whole(0, _GIBIBYTE),
        takes="bytes per second",
        default=256,
        meaning="a slower server, averaged over stall_timeout, is given up (bytes per second; 0: never)",
    ),
    Key(
        name="limit_rate",
        convert=_whole(0, _GIBIBYTE),
        takes="bytes per second",
        default=0,
        meaning="no more than this over the network, all downloads together (bytes per second; 0: no limit)",
    ),
    Key(
        name="download_tries",
        convert=_whole(1, 100),
        takes="a whole number from 1 to 100",
        default=4,
        meaning="failures in a row at each mirror, each below minimum_rate, before a download is given up",
    ),
)
_BY_NAME = {key.name: key for key in KEYS}


def parse(text: str, folder: Path) -> Config:
    """Return the settings in ``text``; relative paths start at ``folder``.

    Raises:
        ConfigError: lists every fault, each by its key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from error
    faults = [_unknown(name) for name in document if name not in _BY_NAME]
    values: dict[str, Any] = {}
    for key in KEYS:
        fault = _take(key, document, folder, values)
        faults += [fault] if fault else []
    if values["client_key"] and not values["client_certificate"]:
        faults.append("client_key is of no use without client_certificate")
    if faults:
        raise ConfigError("; ".join(faults))
    return Config(**values)


def load(path: Path) -> Config:
    """Read and validate a configuration file. Raises ConfigError, naming the file."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.resolve().parent)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", next_step="Pass --config FILE.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def _take(key: Key, document: dict[str, Any], folder: Path, values: dict[str, Any]) -> str:
    """Put the key's value, or its default, into ``values``; return the fault, or nothing."""
    values[key.name] = key.default
    if key.name not in document:
        return f"{key.name} is missing" if key.required else ""
    try:
        values[key.name] = key.convert(document[key.name], folder)
    except _BadValueError:
        return f"{key.name} = {document[key.name]!r}: takes {key.takes}"
    return ""


def _unknown(name: str) -> str:
    """Say that a key is unknown, and which known one is nearest."""
    import difflib

    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f"unknown key {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
