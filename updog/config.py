"""``updog.toml``: Bottlerocket's keys unchanged, and this project's own keys.

Rules it enforces:

* an unknown key is an error that suggests the nearest known one (zincati's users lost settings to misspelt
  keys that were not reported);
* all faults of a file are reported at once, each by its key;
* relative paths are relative to the folder of the file, so that a node in a folder can be moved;
* a URL is parsed here and is a :class:`~updog.url.Url` from here on, which prints without its login and
  query; no fault shows them either.

The table :data:`KEYS` defines all names, types, defaults and meanings, but for those of automatic updates
(:mod:`updog.auto_keys`) and of the API (:mod:`updog.api_keys`); the reference page
``docs/reference/updog.toml.md`` is generated from all three.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from signpost.errors import MediumError, UsageError
from signpost.system_file import read_system_text
from signpost.toml_file import parse_toml, read_text
from updog.api_keys import API_KEYS, ApiTable
from updog.auto_keys import ARRAYS, AUTO_KEYS, AutoSettings
from updog.config_key import (
    BadValueError,
    Key,
    homes,
    plain,
    read_keys,
    to_flag,
    to_names,
    to_path,
    to_paths,
    to_text,
    to_texts,
    to_url,
    to_whole_number,
)
from updog.errors import ConfigError
from updog.no_proxy import NoProxyEntry, entries_of
from updog.update_metadata.errors import TimeError, VersionError
from updog.update_metadata.seeds import MAX_SEED, machine_seed
from updog.update_metadata.sizes import parse_rate
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version
from updog.url import WEB, Url

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.api_keys import ApiSettings
    from updog.auto.policy import Policy

BUILTIN_CHECKS = ("failed-units", "default-route", "name-resolution", "free-space", "clock")
"""Names of the built-in health checks; :mod:`updog.health.builtin` has one function for each."""

DEFAULT_PATH = Path("/etc/updog.toml")
_T = TypeVar("_T")
_LATEST = "latest"
_AUTO, _API = "auto", "api"
_MAX_TRIES = 15  # the GPT attribute field has four bits for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The node's settings, validated. :data:`KEYS` has the fields' meanings and units."""

    metadata_base_url: Url
    targets_base_url: Url
    metadata_mirrors: tuple[Url, ...]
    targets_mirrors: tuple[Url, ...]
    seed: int | None
    version_lock: Version | None
    ignore_waves: bool
    https_proxy: Url | None
    no_proxy: tuple[NoProxyEntry, ...]
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
    retry_after: int
    pstore_dirs: tuple[Path, ...]
    motd_file: Path | None
    metrics_file: Path | None
    report_url: Url | None
    reboot_command: tuple[str, ...]
    connect_timeout: int
    stall_timeout: int
    minimum_rate: int
    limit_rate: int
    download_tries: int
    auto: Policy
    api: ApiSettings

    @property
    def manifest_name(self) -> str:
        """The TUF target name of the manifest of this node's channel."""
        return f"{self.channel}/manifest.json" if self.channel else "manifest.json"

    @property
    def download_dir(self) -> Path:
        """The folder for large files: images, until they are written to a slot."""
        return self.cache_dir or self.state_dir

    def read_machine_id(self) -> str:
        """Return the content of the machine-id. Raises OSError or UnicodeDecodeError."""
        return read_system_text(self.machine_id, "ascii")

    def wave_seed(self) -> int:
        """Return the node's place in the waves, 0 … 2047: configured, or derived from its machine-id.

        Raises:
            ConfigError: no seed is configured, and there is no machine-id.
            SeedError: the machine-id is empty.
        """
        if self.seed is not None:
            return self.seed
        try:
            return machine_seed(self.read_machine_id().strip())
        except (OSError, UnicodeDecodeError) as error:
            message = f"no seed is configured and {self.machine_id} cannot be read: {error}"
            raise ConfigError(message, next_step="Set `seed` (0 to 2047) in the configuration.") from error


def _base_url(value: Any, folder: Path) -> Url:
    try:
        return Url.parse_base(to_text(value, folder))
    except ValueError as error:
        raise BadValueError from error


def _base_urls(value: Any, folder: Path) -> tuple[Url, ...]:
    if not isinstance(value, list):
        raise BadValueError
    return tuple(_base_url(item, folder) for item in value)


def _proxy(value: Any, folder: Path) -> Url:
    """Return a proxy's URL; ``host:port`` is one too, as in Bottlerocket's settings."""
    text = to_text(value, folder)
    if "://" in text:
        return to_url(*WEB, "socks5", "socks5h")(text, folder)
    login, _, place = text.rpartition("@")
    if "/" in login:
        raise BadValueError
    url = to_url("http")(f"http://{place}", folder)
    return replace(url, address=place, login=login) if login else url  # refused where it is used: no scheme


def _channel(value: Any, folder: Path) -> str:
    text = to_text(value, folder)
    if not all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in text):
        raise BadValueError
    return text


def _no_proxy(value: Any, folder: Path) -> tuple[NoProxyEntry, ...]:
    try:
        return entries_of(to_texts(value, folder))
    except ValueError as error:
        raise BadValueError from error


def _lock(value: Any, folder: Path) -> Version | None:
    text = to_text(value, folder)
    try:
        return None if text == _LATEST else Version.parse_friendly(text)
    except VersionError as error:
        raise BadValueError from error


def _time(value: Any, folder: Path) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    try:
        return parse_time(to_text(value, folder))
    except TimeError as error:
        raise BadValueError from error


def _rate(value: Any, folder: Path) -> int:
    """Return bytes per second, from a number or a text such as ``500k``."""
    if isinstance(value, str):
        try:
            value = parse_rate(value)
        except UsageError as error:
            raise BadValueError from error
    return to_whole_number(0, _GIBIBYTE)(value, folder)


_DAY_SECONDS = 86_400
_GIBIBYTE = 1 << 30

KEYS: tuple[Key, ...] = (
    Key(
        name="metadata_base_url",
        convert=_base_url,
        takes="an http, https or file URL",
        default=None,
        meaning="base URL of the metadata: N.root.json, timestamp.json …",
        upstream=True,
        required=True,
    ),
    Key(
        name="targets_base_url",
        convert=_base_url,
        takes="an http, https or file URL",
        default=None,
        meaning="base URL of the targets",
        upstream=True,
        required=True,
    ),
    Key(
        name="metadata_mirrors",
        convert=_base_urls,
        takes="a list of http, https or file URLs",
        default=(),
        meaning="other base URLs of the same metadata, used in order if one fails or does not verify",
    ),
    Key(
        name="targets_mirrors",
        convert=_base_urls,
        takes="a list of http, https or file URLs",
        default=(),
        meaning="other base URLs of the same targets, used in order if one fails or sends wrong content",
    ),
    Key(
        name="seed",
        convert=to_whole_number(0, MAX_SEED - 1),
        takes=f"a whole number from 0 to {MAX_SEED - 1}",
        default=None,
        meaning="place in the waves; if unset, derived from the machine-id",
        upstream=True,
    ),
    Key(
        name="version_lock",
        convert=_lock,
        takes='"latest" or a version',
        default=None,
        meaning="install exactly this version, be it newer or older; "
        '"latest" or unset: the latest version that is open to this node',
        upstream=True,
    ),
    Key(
        name="ignore_waves",
        convert=to_flag,
        takes="true or false",
        default=False,
        meaning="install updates before their wave opens",
        upstream=True,
    ),
    Key(
        name="https_proxy",
        convert=_proxy,
        takes="a proxy URL, or host:port",
        default=None,
        meaning="proxy for all requests",
        upstream=True,
    ),
    Key(
        name="no_proxy",
        convert=_no_proxy,
        takes="a list of host names, IPv4 or IPv6 addresses and networks (CIDR)",
        default=(),
        meaning="hosts reached without the proxy; a name includes all hosts below it; NAME:PORT and "
        "[ADDRESS]:PORT mean one port, * every host",
        upstream=True,
    ),
    Key(
        name="ca_file",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM certificates of the CAs to trust for TLS, instead of those that the system trusts "
        "(SSL_CERT_FILE, SSL_CERT_DIR, the system's store)",
    ),
    Key(
        name="client_certificate",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM certificate that this node presents to the configured servers; the file may also "
        "contain its key",
    ),
    Key(
        name="client_key",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM key of client_certificate, if it is in a separate file",
    ),
    Key(
        name="variant",
        convert=to_text,
        takes="a text",
        default=None,
        meaning="overrides VARIANT_ID from os-release",
    ),
    Key(
        name="arch",
        convert=to_text,
        takes="a text",
        default=os.uname().machine,
        meaning="overrides the machine's architecture",
    ),
    Key(
        name="channel",
        convert=_channel,
        takes="letters, digits, '.', '_' and '-'",
        default=None,
        meaning="follow this channel: <channel>/manifest.json and the targets signed by the channel's keys",
    ),
    Key(
        name="trusted_root",
        convert=to_path,
        takes="a path",
        default=Path("/usr/share/updog/root.json"),
        meaning="the trusted TUF root metadata that is shipped in the image",
    ),
    Key(
        name="accept_expired_until",
        convert=_time,
        takes="a time with its zone, such as 2027-01-31T00:00:00Z",
        default=None,
        meaning="accept expired metadata until this time (air gap); all other checks still apply",
    ),
    Key(
        name="state_dir",
        convert=to_path,
        takes="a path",
        default=Path("/var/lib/updog"),
        meaning=(
            "folder for the state that is kept between runs and shared by both slots; refused if another "
            "user can write to it or to a folder above it"
        ),
    ),
    Key(
        name="disk",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="the disk with the two slots; if unset, the disk of the running root file system",
    ),
    Key(
        name="os_release",
        convert=to_path,
        takes="a path",
        default=Path("/usr/lib/os-release"),
        meaning="file with VERSION_ID and VARIANT_ID of the running system",
    ),
    Key(
        name="boot_record",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="file in which a boot stage recorded the slot it started; if unset, the running slot is "
        "found through dm-verity",
    ),
    Key(
        name="machine_id",
        convert=to_path,
        takes="a path",
        default=Path("/etc/machine-id"),
        meaning="file with the machine-id, from which the seed is derived; it must not change",
    ),
    Key(
        name="tries",
        convert=to_whole_number(1, _MAX_TRIES),
        takes=f"a whole number from 1 to {_MAX_TRIES}",
        default=1,
        meaning="boots that a new slot may use until it is confirmed",
    ),
    Key(
        name="spool",
        convert=to_flag,
        takes="true or false",
        default=True,
        meaning="download and verify updates of up to 64 MiB before the slot is written, if there is enough "
        "free space",
    ),
    Key(
        name="cache_dir",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="folder for images until they are written to a slot; if unset, state_dir",
    ),
    Key(
        name="send_query",
        convert=to_flag,
        takes="true or false",
        default=True,
        meaning="send query parameters: seed, version, target as upstream; node, variant, arch, channel",
    ),
    Key(
        name="health_dir",
        convert=to_path,
        takes="a path",
        default=Path("/etc/updog/health.d"),
        meaning="folder with required/ and wanted/, whose executables `confirm` runs",
    ),
    Key(
        name="health_checks",
        convert=to_names(*BUILTIN_CHECKS),
        takes=f"a list of {', '.join(BUILTIN_CHECKS)}",
        default=("failed-units", "free-space", "clock"),
        meaning="built-in checks that `confirm` requires, in addition to those in health_dir",
    ),
    Key(
        name="health_warnings",
        convert=to_names(*BUILTIN_CHECKS),
        takes=f"a list of {', '.join(BUILTIN_CHECKS)}",
        default=(),
        meaning="built-in checks that `confirm` only warns about",
    ),
    Key(
        name="health_timeout",
        convert=to_whole_number(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=60,
        meaning="time limit of one health check (seconds)",
    ),
    Key(
        name="health_deadline",
        convert=to_whole_number(0, _DAY_SECONDS),
        takes="seconds, 0 to 86400",
        default=300,
        meaning="time in which the checks must pass; until then failed checks are repeated. All checks "
        "together may take this long, or health_timeout if that is longer (seconds)",
    ),
    Key(
        name="stability_window",
        convert=to_whole_number(0, _DAY_SECONDS),
        takes="seconds, 0 to 86400",
        default=30,
        meaning="time for which the checks must keep passing before a boot is confirmed (seconds)",
    ),
    Key(
        name="retry_after",
        convert=to_whole_number(0, 365 * _DAY_SECONDS),
        takes="seconds, 0 to 31536000",
        default=_DAY_SECONDS,
        meaning="time after which a version that fell back without a known cause is tried once more; a "
        "second fallback denies it like others (seconds; 0: never)",
    ),
    Key(
        name="pstore_dirs",
        convert=to_paths,
        takes="a list of paths",
        default=(Path("/sys/fs/pstore"), Path("/var/lib/systemd/pstore")),
        meaning="folders with records of crashed kernels, to find the cause of a fallback; only read",
    ),
    Key(
        name="motd_file",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="file that is kept up to date with the output of `updog motd`, such as /run/motd.d/updog",
    ),
    Key(
        name="metrics_file",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="file with metrics for Prometheus' node_exporter, such as /var/lib/node_exporter/updog.prom",
    ),
    Key(
        name="report_url",
        convert=to_url(*WEB),
        takes="an http or https URL",
        default=None,
        meaning="URL to which an outcome line is sent after a confirm or a fallback; if unset, none is sent",
    ),
    Key(
        name="reboot_command",
        convert=to_texts,
        takes="a list of words",
        default=("systemctl", "reboot"),
        meaning="command that --reboot and a fallback run; empty: none",
    ),
    Key(
        name="connect_timeout",
        convert=to_whole_number(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=10,
        meaning="time limit for connecting to a server (seconds)",
    ),
    Key(
        name="stall_timeout",
        convert=to_whole_number(1, _DAY_SECONDS),
        takes="seconds, 1 to 86400",
        default=30,
        meaning="time limit for the head of a response, and then for each pause in its body (seconds)",
    ),
    Key(
        name="minimum_rate",
        convert=_rate,
        takes='bytes per second, up to 1 GiB, as a number or a text such as "500k"',
        default=256,
        meaning="a slower server, averaged over stall_timeout, is given up (bytes per second; 0: never)",
    ),
    Key(
        name="limit_rate",
        convert=_rate,
        takes='bytes per second, up to 1 GiB, as a number or a text such as "500k"',
        default=0,
        meaning="maximum rate of all downloads together (bytes per second; 0: no limit)",
    ),
    Key(
        name="download_tries",
        convert=to_whole_number(1, 100),
        takes="a whole number from 1 to 100",
        default=4,
        meaning="consecutive failures at each mirror, each below minimum_rate, until a download is given up",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One key of the effective configuration.

    Attributes:
        name: dotted; windows and freezes have their number: ``auto.window[1].days``.
        value: a value of JSON, without the secrets of URLs; None: unset.
        is_from_file: whether the file has it; else it is the default.
    """

    name: str
    value: Any
    is_from_file: bool


def parse(text: str, folder: Path) -> Config:
    """Return the settings in ``text``; relative paths start at ``folder``.

    Raises:
        ConfigError: lists every fault, each by its key.
    """
    values, auto, api, _ = _read(text, folder)
    return Config(**values, auto=auto.policy(), api=api.settings())


def effective(text: str, folder: Path) -> tuple[Setting, ...]:
    """Return every key with its value, and whether ``text`` has it. Raises ConfigError as :func:`parse`."""
    values, auto, api, given = _read(text, folder)
    return tuple(
        Setting(name=name, value=plain(value), is_from_file=name in given)
        for name, value in (*values.items(), *auto.items(), *api.items())
    )


def _read(text: str, folder: Path) -> tuple[dict[str, Any], AutoSettings, ApiTable, set[str]]:
    """Return the values of :data:`KEYS`, those of ``auto`` and ``api``, and the names that ``text`` has."""
    document = parse_toml(text, ConfigError)
    elsewhere = homes((*KEYS, *AUTO_KEYS, *API_KEYS), ARRAYS)
    found, faults = read_keys(
        document, {key.name: key for key in KEYS}, folder, below=[_AUTO, _API], elsewhere=elsewhere
    )
    values: dict[str, Any] = {key.name: key.default for key in KEYS} | found
    if values["client_key"] and not values["client_certificate"]:
        faults.append("client_key has no effect without client_certificate")
    auto = AutoSettings(document.get(_AUTO), folder, elsewhere)
    api = ApiTable(document.get(_API), folder, elsewhere)
    faults += [*auto.faults, *api.faults]
    if len(faults) > 1:
        raise ConfigError("\n  - ".join([f"{len(faults)} faults:", *faults]))
    if faults:
        raise ConfigError(faults[0])
    return values, auto, api, {*document, *auto.given, *api.given}


def load(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        ConfigError: it is missing or has faults; the message names the file.
        MediumError: this user may not read it.
    """
    return _load(path, parse)


def load_effective(path: Path) -> tuple[Setting, ...]:
    """Return every key with its value, and whether the file has it. Raises as :func:`load`."""
    return _load(path, effective)


def _load(path: Path, read: Callable[[str, Path], _T]) -> _T:
    try:
        text = read_text(path, lambda problem: ConfigError(problem, next_step="Pass --config FILE."))
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):  # nothing is wrong with the file
            raise MediumError.of(error.message, error.__cause__) from error
        raise
    try:
        return read(text, path.resolve().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from error
