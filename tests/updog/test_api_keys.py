"""``[api]`` of the configuration: every key and every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from signpost.errors import ExitStatus
from updog.api_keys import API_KEYS, ApiSettings, Grantee, Kind
from updog.config import effective, parse
from updog.errors import ConfigError

FOLDER = Path("/srv/node")
URLS = 'metadata_base_url = "https://os.example/metadata"\ntargets_base_url = "https://os.example/targets/"\n'


def settings(text: str) -> ApiSettings:
    return parse(URLS + text, FOLDER).api


def fault(text: str) -> str:
    """Return what a file with this text is refused for."""
    with pytest.raises(ConfigError) as caught:
        parse(URLS + text, FOLDER)
    assert caught.value.status is ExitStatus.USAGE
    return caught.value.message


def test_without_the_table_everybody_reads_and_root_and_a_group_control() -> None:
    expected = ApiSettings(
        socket=Path("/run/updog/api.sock"),
        bottlerocket_socket=None,
        read=(Grantee(kind=Kind.ANY),),
        control=(Grantee(kind=Kind.ROOT), Grantee(kind=Kind.GROUP, name="updog")),
        max_clients=32,
    )
    assert settings("") == settings("[api]\n") == expected


def test_every_key_is_read() -> None:
    text = (
        '[api]\nsocket = "run/a.sock"\nbottlerocket_socket = "/run/api.sock"\nread = []\n'
        'control = ["any", "root", "user:anna", "group:_night.shift-2", "user:pc$"]\nmax_clients = 1000\n'
    )
    found = settings(text)
    assert found.socket == FOLDER / "run/a.sock"
    assert found.bottlerocket_socket == Path("/run/api.sock")
    assert found.read == ()
    names = ["any", "root", "user:anna", "group:_night.shift-2", "user:pc$"]
    assert [str(grantee) for grantee in found.control] == names
    assert found.max_clients == 1000


def test_an_empty_socket_is_no_api() -> None:
    assert settings('[api]\nsocket = ""\n').socket is None


@pytest.mark.parametrize(
    "grantee",
    [
        "",
        "anna",
        "Any",
        "any ",
        "user:",
        "user",
        "group:-x",
        "user:a b",
        "user:a:b",
        "group:a\\n",
        "uid:0",
        "user:ä",
    ],
)
@pytest.mark.parametrize("key", ["read", "control"])
def test_who_is_not_named_as_it_must_be_is_a_fault(key: str, grantee: str) -> None:
    said = fault(f'[api]\n{key} = ["root", "{grantee}"]\n')
    assert f"api.{key}" in said
    assert '"group:NAME"' in said


@pytest.mark.parametrize("key", ["socket", "bottlerocket_socket"])
def test_a_path_that_the_kernel_cannot_take_is_a_fault(key: str) -> None:
    longest = "/" + "x" * 106  # unix(7): sun_path has 108 bytes, with a zero at its end
    settings(f'[api]\n{key} = "{longest}"\n')
    for path in (longest + "x", "/" + "ä" * 54):
        assert "at most 107 bytes" in fault(f'[api]\n{key} = "{path}"\n')


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("max_clients = 0", "api.max_clients"),
        ("max_clients = 1001", "api.max_clients"),
        ("max_clients = true", "api.max_clients"),
        ("socket = 1", "api.socket"),
        ('control = "root"', "api.control"),
        ("contrl = []", "contrl"),
        ("socket.path = 'x'", "api.socket"),
    ],
)
def test_another_fault_names_the_key(line: str, named: str) -> None:
    assert named in fault(f"[api]\n{line}\n")


def test_the_table_must_be_one() -> None:
    assert "must be a table, [api]" in fault("api = 1\n")


def test_every_key_is_among_the_effective_ones_with_its_origin() -> None:
    found = {each.name: each for each in effective(URLS + "[api]\nread = ['user:anna']\n", FOLDER)}
    assert {key.name for key in API_KEYS} <= set(found)
    assert found["api.read"].value == ["user:anna"]
    assert found["api.read"].is_from_file
    assert not found["api.socket"].is_from_file
