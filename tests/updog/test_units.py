"""The units that ship in the wheel name commands, units and folders that exist."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import updog
from signpost.cli import program as signpost
from signpost.errors import ExitStatus, ToolError
from updog import units
from updog.api_keys import API_KEYS
from updog.cli import program
from updog.config import KEYS
from updog.daemon.api.door import BOTTLEROCKET
from updog.event_journal import IDENTIFIER

if TYPE_CHECKING:
    from click.testing import Result

FOLDER = Path(updog.__file__).parent / "systemd"
UNITS = sorted(path for path in FOLDER.iterdir() if path.suffix in {".service", ".timer", ".socket"})
SERVICES = [path for path in UNITS if path.suffix == ".service"]
SOCKETS = [path for path in UNITS if path.suffix == ".socket"]
PRESET = (FOLDER / "updog.preset").read_text(encoding="ascii").splitlines()

every_service = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)


def read(path: Path) -> configparser.ConfigParser:
    """Return a unit's sections; of repeated settings the last."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text(encoding="ascii"))
    return unit


@every_service
def test_a_service_starts_a_command_that_its_program_has_with_options_it_takes(path: Path) -> None:
    program_path, command, *options = read(path)["Service"]["ExecStart"].split()
    group = {"/usr/bin/updog": program, "/usr/bin/signpost": signpost}[program_path]
    found = group.get_command(click.Context(group), command)
    assert found
    taken = {option for parameter in found.params for option in parameter.opts}
    assert set(options) <= taken


def test_no_unit_needs_a_program_that_the_smallest_debian_lacks() -> None:
    """There is no /bin/kill without procps; the shell has its own."""
    words = [line for path in SERVICES for line in path.read_text(encoding="ascii").splitlines()]
    programs = {
        word.split()[0] for line in words for _, _, word in [line.partition("=")] if line[:4] == "Exec"
    }
    assert programs == {"/usr/bin/updog", "/usr/bin/signpost", "/bin/sh"}


@every_service
def test_exit_statuses_that_a_service_names_are_documented_ones(path: Path) -> None:
    service = read(path)["Service"]
    named = f"{service.get('SuccessExitStatus', '')} {service.get('RestartPreventExitStatus', '')}".split()
    assert {int(status) for status in named} <= {int(status) for status in ExitStatus}


@every_service
def test_a_service_s_lines_are_found_by_the_identifier_of_the_events(path: Path) -> None:
    """`journalctl -t updog` shows both."""
    assert read(path)["Service"]["SyslogIdentifier"] == IDENTIFIER


def test_what_leaves_the_node_as_it_was_does_not_fail_a_unit_that_the_health_check_looks_at() -> None:
    """A failed unit would fail the next boot's check: no update, no repository, busy are not failures."""
    for name in ("updog-check.service", "updog-update.service"):
        assert {"3", "5", "75"} <= set(read(FOLDER / name)["Service"]["SuccessExitStatus"].split())


def test_the_preset_decides_about_every_unit_that_can_be_enabled() -> None:
    decided = [line.split()[1] for line in PRESET]
    assert sorted(decided) == sorted(path.name for path in UNITS if "Install" in read(path))


def test_a_timer_stands_beside_its_service() -> None:
    for timer in (path for path in UNITS if path.suffix == ".timer"):
        assert timer.with_suffix(".service") in SERVICES


def test_every_socket_is_passed_to_the_agent_by_the_name_that_says_what_it_is() -> None:
    """A socket belongs to the service of its name, or to that of Service= (systemd.socket(5))."""
    found = {}
    for path in SOCKETS:
        socket = read(path)["Socket"]
        assert socket.get("Service", path.with_suffix(".service").name) == "updog-agent.service"
        found[socket["FileDescriptorName"]] = (socket["ListenStream"], socket["SocketMode"])
    default = next(key.default for key in API_KEYS if key.name == "api.socket")
    assert found == {"api": (default, "0666"), BOTTLEROCKET: ("/run/api.sock", "0660")}


def test_groups_of_sockets_and_of_the_configuration_are_made() -> None:
    made = {
        line.split()[1]
        for line in (FOLDER / "updog.sysusers").read_text(encoding="ascii").splitlines()
        if line.startswith("g ")
    }
    groups = {read(path)["Socket"].get("SocketGroup") for path in SOCKETS} - {None}
    granted = {word for key in API_KEYS if isinstance(key.default, list) for word in key.default}
    groups |= {word.removeprefix("group:") for word in granted if word.startswith("group:")}
    assert groups == made


def test_the_services_may_write_where_updog_keeps_things() -> None:
    hardening = read(FOLDER / "updog-.service.d" / "hardening.conf")["Service"]
    state_dir = next(key.default for key in KEYS if key.name == "state_dir")
    assert f"-{state_dir}" in hardening["ReadWritePaths"].split()
    assert f"d {state_dir} " in (FOLDER / "updog.tmpfiles").read_text(encoding="ascii")


def test_the_boot_is_given_up_only_after_the_checks_had_their_time() -> None:
    minutes = int(read(FOLDER / "updog-confirm.service")["Unit"]["JobTimeoutSec"].removesuffix("min"))
    times = {key.name: key.default for key in KEYS}
    assert minutes * 60 > 2 * (times["health_deadline"] + times["stability_window"])


def test_the_readme_says_of_every_file_where_it_goes() -> None:
    rows = {
        name: place.strip("/")
        for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
        for name, place in re.findall(r"^\| `(updog\.\w+|watchdog\.conf)` \| `([^`]+)`", line)
    }
    units_text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for place in units.files():
        name, below = PurePosixPath(place).name, PurePosixPath(place).is_relative_to(units.UNITS)
        if below:
            told = PurePosixPath(place).relative_to(units.UNITS).parts[0]
            assert told.replace(".timer", ".service") in units_text, place
        else:
            assert place in rows.values(), name
    assert set(rows.values()) <= set(units.files())


def test_every_file_of_the_folder_has_a_place() -> None:
    there = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".md"]
    contents = units.files()
    assert len(contents) == len(there)
    assert sorted(contents.values()) == sorted(path.read_bytes() for path in there)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Return a folder that stands for a system, with the program in /opt/updog and in /usr."""
    for prefix in ("opt/updog", "usr"):
        (tmp_path / prefix / "bin").mkdir(parents=True)
        (tmp_path / prefix / "bin/updog").touch(mode=0o755)
    return tmp_path


def install(system: Path, *words: str) -> Result:
    return CliRunner().invoke(program, ["units", "install", "--root", str(system), *words])


@pytest.mark.parametrize("prefix", ["/usr", "/opt/updog"])
def test_units_are_installed_for_where_the_program_is(system: Path, prefix: str) -> None:
    result = install(system, "--prefix", prefix, "--json")
    assert result.exit_code == 0, result.output
    written = [Path(path) for path in json.loads(result.stdout)["files"]]
    assert [str(path.relative_to(system)) for path in written] == list(units.files())
    assert {path for path in system.rglob("*") if path.is_file()} - set(written) == {
        system / "opt/updog/bin/updog",
        system / "usr/bin/updog",
    }
    started = [read(path)["Service"]["ExecStart"] for path in written if path.suffix == ".service"]
    assert {line.split()[0] for line in started} == {f"{prefix}/bin/updog", f"{prefix}/bin/signpost"}
    assert {path.stat().st_mode & 0o777 for path in written} == {0o644}


def test_units_are_installed_a_second_time(system: Path) -> None:
    """After `pip` moved the program; nothing of the first time is left."""
    install(system)
    assert install(system, "--prefix", "/opt/updog").exit_code == 0
    assert (system / units.UNITS / "updog-agent.service").read_bytes() == units.files(
        PurePosixPath("/opt/updog")
    )[f"{units.UNITS}/updog-agent.service"]


def test_what_has_to_be_run_next_is_told_and_enables_what_the_preset_says(system: Path) -> None:
    told = install(system).stderr
    enabled = [line.split()[1] for line in PRESET if line.startswith("enable")]
    assert f"systemctl --root={system} preset {' '.join(enabled)}" in told
    assert not list(system.rglob("*.wants"))


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("/opt/other", "there is no"),
        ("opt/updog", "absolute path"),
        ("/opt/with blank", "absolute path"),
        ("/opt/50%", "absolute path"),
        ("/opt/../home/me", "absolute path"),
        ("/home/me/venv", "protected from /home"),
        ("/root/venv", "protected from /root"),
    ],
)
def test_units_that_could_not_start_the_program_are_not_written(system: Path, prefix: str, told: str) -> None:
    before = sorted(system.rglob("*"))
    result = install(system, "--prefix", prefix)
    assert isinstance(result.exception, ToolError)
    assert told in result.exception.message
    assert sorted(system.rglob("*")) == before


with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _exposure(service: str, units: Path) -> float:
    """Return how systemd rates the exposure of a service, 0 to 10."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", service],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert match, done.stderr
    return float(match[1])


@with_systemd
@every_service
def test_a_service_is_exposed_no_more_than_the_readme_says(path: Path) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = re.search(rf"\| `{re.escape(path.name)}` \| ([0-9.]+) \|", text)
    assert stated
    assert _exposure(path.name, FOLDER) <= float(stated[1])


@with_systemd
def test_confirm_is_like_the_others_where_health_checks_need_nothing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "units")
    (tmp_path / "units/updog-confirm.service.d/health-checks.conf").unlink()
    assert _exposure("updog-confirm.service", tmp_path / "units") <= 2.2


def test_only_what_needs_them_has_privileges_and_its_file_comes_after_the_hardening() -> None:
    """Drop-ins are read in the order of their names, whatever folder they are in; the last one decides."""
    hardening = FOLDER / "updog-.service.d" / "hardening.conf"
    own = [path for path in FOLDER.glob("updog-*.service.d/*.conf") if path != hardening]
    assert all(path.name > hardening.name for path in own)
    assert read(hardening)["Service"]["CapabilityBoundingSet"] == ""
    privileges = {path.parent.name: read(path)["Service"]["CapabilityBoundingSet"] for path in own}
    assert privileges == {
        "updog-confirm.service.d": "~",
        "updog-agent.service.d": "~",
        "updog-grow.service.d": "CAP_SYS_ADMIN",
    }


def test_data_grows_before_it_is_mounted_and_waits_for_no_file_system() -> None:
    """PrivateTmp= waits for /var/tmp, RequiresMountsFor= for what it names: both can be on DATA."""
    unit = read(FOLDER / "updog-grow.service")
    assert "local-fs-pre.target" in unit["Unit"]["Before"].split()
    assert unit["Unit"]["DefaultDependencies"] == "no"
    assert "RequiresMountsFor" not in unit["Unit"]
    assert "75" in unit["Service"]["SuccessExitStatus"].split()
    own = [read(path)["Service"] for path in (FOLDER / "updog-grow.service.d").iterdir()]
    assert [each["PrivateTmp"] for each in own] == ["no"]


@with_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """A setting that it does not know is only a warning, in the log of a node that nobody reads."""
    units = tmp_path / "units"
    shutil.copytree(FOLDER, units)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    environment = {"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units}:"}
    done = subprocess.run(
        [*command, *(units / path.name for path in UNITS)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "updog" in line]
    assert [line for line in said if not re.search("/usr/bin/(updog|signpost) is not executable", line)] == []
