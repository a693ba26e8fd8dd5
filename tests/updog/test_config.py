"""The configuration: every key, every fault, all of them at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from signpost.errors import ExitStatus
from updog.config import DEFAULT_PATH, KEYS, load, parse
from updog.errors import ConfigError
from updog.no_proxy import entries_of
from updog.update_metadata.errors import SeedError
from updog.update_metadata.version import Version
from updog.url import Url

FOLDER = Path("/srv/node")
URLS = 'metadata_base_url = "https://os.example/metadata"\ntargets_base_url = "https://os.example/targets/"\n'

# The file that Bottlerocket's nodes have, with all keys its updog reads.
UPSTREAM = """\
metadata_base_url = "https://updates.bottlerocket.aws/2020-07-07/aws-k8s-1.31/x86_64"
targets_base_url = "https://updates.bottlerocket.aws/targets"
seed = 1043
version_lock = "latest"
ignore_waves = false
https_proxy = "http://proxy.example:3128"
no_proxy = ["localhost", "169.254.169.254"]
"""


def url(text: str) -> Url:
    return Url.parse(text, ("http", "https", "file"))


GOOD: dict[str, tuple[str, object]] = {
    "metadata_base_url": ('"file:///srv/repo/metadata"', url("file:///srv/repo/metadata/")),
    "targets_base_url": ('"http://os.example/t/"', url("http://os.example/t/")),
    "metadata_mirrors": ('["https://b.example/m"]', (url("https://b.example/m/"),)),
    "targets_mirrors": ('["file:///srv/t/"]', (url("file:///srv/t/"),)),
    "seed": ("2047", 2047),
    "version_lock": ('"v1.4.0"', Version.parse("1.4.0")),
    "ignore_waves": ("true", True),
    "https_proxy": ('"http://proxy:3128"', url("http://proxy:3128")),
    "no_proxy": ('["localhost", ".internal"]', entries_of(("localhost", ".internal"))),
    "ca_file": ('"ca.pem"', FOLDER / "ca.pem"),
    "client_certificate": ('"/etc/node.pem"', Path("/etc/node.pem")),
    "client_key": ('"node.key"\nclient_certificate = "node.pem"', FOLDER / "node.key"),
    "variant": ('"aws-k8s-1.31"', "aws-k8s-1.31"),
    "arch": ('"aarch64"', "aarch64"),
    "channel": ('"beta"', "beta"),
    "trusted_root": ('"root.json"', FOLDER / "root.json"),
    "accept_expired_until": ("2027-01-31T00:00:00Z", datetime(2027, 1, 31, tzinfo=UTC)),
    "state_dir": ('"../state"', FOLDER / "../state"),
    "disk": ('"/dev/vda"', Path("/dev/vda")),
    "os_release": ('"run/os-release"', FOLDER / "run/os-release"),
    "boot_record": ('"run/boot.json"', FOLDER / "run/boot.json"),
    "machine_id": ('"/etc/machine-id"', Path("/etc/machine-id")),
    "tries": ("15", 15),
    "spool": ("false", False),
    "cache_dir": ('"../cache"', FOLDER / "../cache"),
    "send_query": ("false", False),
    "health_dir": ('"health.d"', FOLDER / "health.d"),
    "health_checks": ('["clock", "default-route"]', ("clock", "default-route")),
    "health_warnings": ('["name-resolution"]', ("name-resolution",)),
    "health_timeout": ("86400", 86400),
    "health_deadline": ("0", 0),
    "stability_window": ("86400", 86400),
    "retry_after": ("86400", 86400),
    "pstore_dirs": ('["/sys/fs/pstore", "old"]', (Path("/sys/fs/pstore"), FOLDER / "old")),
    "motd_file": ('"/run/motd.d/updog"', Path("/run/motd.d/updog")),
    "metrics_file": ('"updog.prom"', FOLDER / "updog.prom"),
    "report_url": ('"https://os.example/outcome?fleet=7"', url("https://os.example/outcome?fleet=7")),
    "reboot_command": ("[]", ()),
    "connect_timeout": ("1", 1),
    "stall_timeout": ("1", 1),
    "minimum_rate": ('"64"', 64),
    "limit_rate": ('"1M"', 1048576),
    "download_tries": ("100", 100),
}

NOT_TEXTS = (r'"a\u0000b"', "1", "true", '""', "[]", "{}")
NOT_FLAGS = ("0", '"true"', "[]")
BAD: dict[str, tuple[str, ...]] = {
    "metadata_base_url": (
        *NOT_TEXTS,
        '"os.example/metadata"',
        '"ftp://os.example/"',
        '"file://repo/"',
        '"https://os.example/#here"',
        '"https://os.example:port/"',
    ),
    "targets_base_url": (*NOT_TEXTS, '"/srv/repo/targets"'),
    "metadata_mirrors": ('"https://a.example/"', "[1]", '["a.example"]', "true"),
    "targets_mirrors": ('"https://a.example/"', "[1]", '["ftp://a.example/"]', "true"),
    "seed": ("-1", "2048", "1.0", "true", '"7"'),
    "version_lock": (*NOT_TEXTS, '"newest"', '"1.2"', '"1.x"'),
    "ignore_waves": NOT_FLAGS,
    "https_proxy": (*NOT_TEXTS, '"ftp://proxy/"', '"proxy:port"'),
    "no_proxy": ('"localhost"', "[1]", "true", '["10.0.0.0/33"]', '["http://a"]', '["10.*"]'),
    "ca_file": NOT_TEXTS,
    "client_certificate": NOT_TEXTS,
    "client_key": NOT_TEXTS,
    "variant": NOT_TEXTS,
    "arch": NOT_TEXTS,
    "channel": (*NOT_TEXTS, '"../stable"', '"stable/"', '"a b"'),
    "trusted_root": NOT_TEXTS,
    "accept_expired_until": (*NOT_TEXTS, '"tomorrow"', "2027-01-31", "2027-01-31T00:00:00"),
    "state_dir": NOT_TEXTS,
    "disk": NOT_TEXTS,
    "os_release": NOT_TEXTS,
    "boot_record": NOT_TEXTS,
    "machine_id": NOT_TEXTS,
    "tries": ("0", "16", "1.5", "true", '"1"'),
    "spool": NOT_FLAGS,
    "cache_dir": NOT_TEXTS,
    "send_query": NOT_FLAGS,
    "health_dir": NOT_TEXTS,
    "health_checks": ('"clock"', '["clocks"]', "[1]"),
    "health_warnings": ('"clock"', '["clocks"]', "[1]"),
    "health_timeout": ("0", "86401", "0.5", "true"),
    "health_deadline": ("-1", "86401", "true"),
    "stability_window": ("-1", "86401", "1.5"),
    "retry_after": ("-1", "31536001", "1.5"),
    "pstore_dirs": ('"/sys/fs/pstore"', "[1]", "true"),
    "motd_file": NOT_TEXTS,
    "metrics_file": NOT_TEXTS,
    "report_url": (*NOT_TEXTS, '"os.example/outcome"', '"file:///srv/log"', '"https://os.example/#here"'),
    "reboot_command": ('"reboot"', "[0]", "true"),
    "connect_timeout": ("0", "86401", '"10"'),
    "stall_timeout": ("0", "86401", '"30"'),
    "minimum_rate": ("-1", "1073741825", "true"),
    "limit_rate": ("-1", "1073741825", "true", '"2G"', '"fast"', '"-1"', "1.5"),
    "download_tries": ("0", "101", "true"),
}


def _document(name: str, value: str) -> str:
    """Return a configuration in which one key has this value, with all required keys."""
    others = [line for line in URLS.splitlines() if not line.startswith(f"{name} ")]
    return "\n".join([*others, f"{name} = {value}"])


def test_what_upstreams_nodes_have_is_read_as_it_is() -> None:
    config = parse(UPSTREAM, FOLDER)
    assert str(config.metadata_base_url) == "https://updates.bottlerocket.aws/2020-07-07/aws-k8s-1.31/x86_64/"
    assert str(config.targets_base_url) == "https://updates.bottlerocket.aws/targets/"
    assert (config.seed, config.version_lock, config.ignore_waves) == (1043, None, False)
    assert config.https_proxy == url("http://proxy.example:3128")
    assert config.no_proxy == entries_of(("localhost", "169.254.169.254"))
    assert {key.name for key in KEYS if key.upstream} == {line.split()[0] for line in UPSTREAM.splitlines()}


def test_what_is_not_said_has_the_defaults_of_the_table() -> None:
    config = parse(URLS, FOLDER)
    for key in KEYS:
        if not key.required:
            assert getattr(config, key.name) == key.default


def test_the_tables_of_this_file_know_every_key() -> None:
    assert [key.name for key in KEYS] == list(GOOD) == list(BAD)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_value_is_taken(name: str) -> None:
    text, value = GOOD[name]
    assert getattr(parse(_document(name, text), FOLDER), name) == value


@pytest.mark.parametrize(
    ("name", "text", "rate"),
    [
        ("minimum_rate", "0", 0),
        ("minimum_rate", "300", 300),
        ("limit_rate", "0", 0),
        ("limit_rate", "1048576", 1048576),
    ],
)
def test_a_rate_is_taken_as_a_number_too_and_zero_is_one(name: str, text: str, rate: int) -> None:
    assert getattr(parse(_document(name, text), FOLDER), name) == rate


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_refused_by_its_key_with_what_it_takes(name: str, text: str) -> None:
    takes = next(key.takes for key in KEYS if key.name == name)
    with pytest.raises(ConfigError) as caught:
        parse(_document(name, text), FOLDER)
    assert caught.value.message.startswith(f"{name} = ")
    assert caught.value.message.endswith(f"must be {takes}")
    assert caught.value.status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("version_lok", "version_lock"),
        ("ignore-waves", "ignore_waves"),
        ("metadata_url", "metadata_base_url"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{written}', did you mean '{meant}'"):
        parse(f'{URLS}"{written}" = "x"\n', FOLDER)


def test_an_unknown_key_unlike_any_other_is_named_alone() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{URLS}zzzz = 1\n", FOLDER)
    assert caught.value.message == "unknown key 'zzzz'"


def test_a_table_is_an_unknown_key_and_no_way_to_hide_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'updog'"):
        parse(f"{URLS}[updog]\nseed = 3\n", FOLDER)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('seed = 4000\ntries = 0\nsped = 1\nmetadata_base_url = "nowhere"\n', FOLDER)
    head, *faults = caught.value.message.split("\n  - ")
    assert head == "5 faults:"
    assert [fault.split(" = ")[0].split(",")[0] for fault in faults] == [
        "unknown key 'sped'",
        "metadata_base_url",
        "targets_base_url is missing",
        "seed",
        "tries",
    ]


def test_what_must_be_there_is_missed_by_name() -> None:
    with pytest.raises(ConfigError, match=r"\n  - metadata_base_url is missing\n  - targets_base_url"):
        parse("", FOLDER)


def test_text_that_is_not_toml_is_said_to_be_so() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        parse("seed = = 1", FOLDER)


def test_relative_paths_start_at_the_file_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "updog.toml").write_text(f'{URLS}state_dir = "state"\ndisk = "disk.img"\n')
    monkeypatch.chdir(tmp_path)
    config = load(Path("node/updog.toml"))
    assert config.state_dir == tmp_path / "node" / "state"
    assert config.disk == tmp_path / "node" / "disk.img"


def test_faults_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "updog.toml"
    path.write_text("seed = -3\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "seed = -3" in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["absent", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named_with_the_next_step(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "updog.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert "--config" in caught.value.next_step


def test_the_manifest_is_that_of_the_channel() -> None:
    assert parse(URLS, FOLDER).manifest_name == "manifest.json"
    assert parse(f'{URLS}channel = "beta"', FOLDER).manifest_name == "beta/manifest.json"


def test_a_configured_seed_overrides_the_machine_id(tmp_path: Path) -> None:
    assert parse(f'{URLS}seed = 5\nmachine_id = "absent"', tmp_path).wave_seed() == 5


def test_without_a_seed_the_machine_id_gives_one_that_stays(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("5c0ffee5c0ffee5c0ffee5c0ffee5c0f\n")
    config = parse(f'{URLS}machine_id = "machine-id"', tmp_path)
    assert config.wave_seed() == config.wave_seed()
    assert 0 <= config.wave_seed() <= 2047


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["absent", "not ASCII"])
def test_without_seed_and_machine_id_the_node_asks_for_a_seed(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "machine-id").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        parse(f'{URLS}machine_id = "machine-id"', tmp_path).wave_seed()
    assert "`seed`" in caught.value.next_step


def test_a_machine_id_that_is_empty_gives_no_seed(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("\n")
    with pytest.raises(SeedError):
        parse(f'{URLS}machine_id = "machine-id"', tmp_path).wave_seed()


def test_the_default_place_is_in_etc() -> None:
    assert Path("/etc/updog.toml") == DEFAULT_PATH


def test_images_are_kept_beside_the_state_unless_a_roomier_place_is_named() -> None:
    assert parse(URLS + 'state_dir = "state"', FOLDER).download_dir == FOLDER / "state"
    assert parse(URLS + 'state_dir = "state"\ncache_dir = "cache"', FOLDER).download_dir == FOLDER / "cache"


def test_mirrors_are_bases_like_the_first_one() -> None:
    config = parse(f'{URLS}targets_mirrors = ["https://b.example/t", "file:///srv/t/"]\n', FOLDER)
    assert config.targets_mirrors == (url("https://b.example/t/"), url("file:///srv/t/"))
    assert config.metadata_mirrors == ()


def test_a_client_key_without_its_certificate_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="client_key has no effect without client_certificate"):
        parse(f'{URLS}client_key = "key.pem"\n', FOLDER)


def test_certificates_lie_beside_the_configuration() -> None:
    config = parse(f'{URLS}ca_file = "ca.pem"\nclient_certificate = "node.pem"\n', FOLDER)
    assert (config.ca_file, config.client_certificate) == (FOLDER / "ca.pem", FOLDER / "node.pem")


SECRET = "S3cret"


@pytest.mark.parametrize("name", [key.name for key in KEYS if "URL" in key.takes])
@pytest.mark.parametrize(
    "value",
    [
        f"ftp://node:{SECRET}@os.example:1/",
        f"http://node:{SECRET}@os.example:port/",
        f"http://node:{SECRET}/@os.example/",
        f"http://node:#{SECRET}@os.example/",
        f"htp//node:{SECRET}@os.example/",
        f"{SECRET}@os.example:port/",
        f"http://os.example:port/?sig={SECRET}",
        f"ftp://os.example/x?sig={SECRET}#x",
    ],
)
def test_a_bad_url_is_reported_without_its_secrets(name: str, value: str) -> None:
    text = f'["{value}"]' if name.endswith("_mirrors") else f'"{value}"'
    with pytest.raises(ConfigError) as caught:
        parse(_document(name, text), FOLDER)
    assert caught.value.message.startswith(f"{name} = ")
    assert SECRET not in caught.value.message


def test_a_configuration_prints_without_its_secrets() -> None:
    settings = (
        f'metadata_base_url = "https://node:{SECRET}@os.example/m?sig={SECRET}"\n'
        f'targets_base_url = "https://os.example/t/?sig={SECRET}"\n'
        f'targets_mirrors = ["https://{SECRET}@mirror.example/t/"]\n'
        f'https_proxy = "http://node:{SECRET}@proxy:3128"\n'
        f'report_url = "https://os.example/outcome?token={SECRET}"\n'
    )
    config = parse(settings, FOLDER)
    assert SECRET not in f"{config!r} {config}"
    assert str(config.metadata_base_url) == "https://os.example/m/"
    assert config.https_proxy is not None
    assert config.https_proxy.with_login() == f"http://node:{SECRET}@proxy:3128"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:3128", "http://127.0.0.1:3128"), ("proxy.example:3128", "http://proxy.example:3128")],
)
def test_a_proxy_may_be_host_and_port_as_upstream_takes_it(text: str, address: str) -> None:
    assert str(parse(f'{URLS}https_proxy = "{text}"\n', FOLDER).https_proxy) == address
