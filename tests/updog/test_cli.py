"""The command line itself: help, options, errors; its effects are tested in the life of a node."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click
import pytest

from signpost.console import commands_of
from tests.support.http_server import HttpServer
from tests.support.nodes import NEWER, Node, command_line, make_node
from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.cli import program
from updog.config import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command of the tree with the words that call it."""
    for name, command in commands_of(group):
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


OURS = [(words, command) for words, command in _commands(program) if words[0] != "tuf"]
IDS = [" ".join(words) for words, _ in OURS]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node with an available update."""
    return make_node(tmp_path)


@pytest.mark.parametrize(("words", "command"), OURS, ids=IDS)
def test_every_command_has_help_with_an_example(words: tuple[str, ...], command: click.Command) -> None:
    said = command_line([*words, "--help"])
    assert said.status == 0
    assert "Example:" in said.out
    assert f"updog {' '.join(words[:1])}" in said.out
    assert command.help


@pytest.mark.parametrize(("words", "command"), OURS, ids=IDS)
def test_every_command_but_the_shells_speaks_json(words: tuple[str, ...], command: click.Command) -> None:
    names = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in names or words == ("completion",)


def test_help_explains_every_key_of_the_configuration_in_80_columns() -> None:
    said = command_line(["help", "configuration"])
    assert said.status == 0
    lines = said.out.splitlines()
    keys = (*KEYS, *AUTO_KEYS, *API_KEYS)
    assert [key.name for key in keys if key.name not in lines] == []
    assert [line for line in lines if len(line) > 80] == []
    document = command_line(["help", "configuration", "--json"]).document
    assert list(document) == [key.name for key in keys]
    assert document["auto.urgent"]["default"] == []
    assert document["tries"]["default"] == 1


def test_config_checks_the_file_and_shows_where_each_value_comes_from(tmp_path: Path) -> None:
    """Bug FLUO #201: nobody could see which switch, in which file, made a node restart."""
    path = tmp_path / "updog.toml"
    url = "https://user:hunter2@os.example/m?token=s3cret"
    path.write_text(f'metadata_base_url = "{url}"\ntargets_base_url = "{url}"\n[auto]\nmode = "check"\n')
    said = command_line(["--config", str(path), "config"])
    assert said.status == 0
    assert said.out.splitlines() == [
        'metadata_base_url  "https://os.example/m/"  file',
        'targets_base_url   "https://os.example/m/"  file',
        'auto.mode          "check"                  file',
    ]
    effective = command_line(["--config", str(path), "config", "--effective", "--json"])
    assert effective.document["file"] == str(path)
    found = effective.document["settings"]
    assert found["auto.mode"] == {"value": "check", "source": "file"}
    assert found["auto.check_every"] == {"value": "1h", "source": "default"}
    assert {*found} >= {key.name for key in (*KEYS, *AUTO_KEYS, *API_KEYS) if key.name.count(".") == 0}
    assert "hunter2" not in effective.out + said.out
    assert "s3cret" not in effective.out + said.out


def test_config_lists_all_faults_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "updog.toml"
    path.write_text('sead = 3\n[auto]\nmode = "on"\n')
    said = command_line(["--config", str(path), "config", "--effective"])
    assert said.status == 2
    assert said.out == ""
    assert all(fault in said.err for fault in ("sead", "auto.mode = 'on'", "metadata_base_url is missing"))


def test_help_without_a_topic_lists_the_commands() -> None:
    assert command_line(["help"]).out == command_line(["--help"]).out


HEAVY = {
    "updog.update_metadata.manifest",
    "updog.update_metadata.waves",
    "updog.select",
    "tuf",
    "requests",
    "rich",
    "updog.drill.cli",
    "updog.conformance",
    "updog.transport",
    "updog.repository",
    "fractions",
    "difflib",
}


@pytest.mark.parametrize("command", ["status", "confirm", "boot-record"])
def test_what_every_start_of_a_node_runs_loads_nothing_that_fetches_or_decides(
    node: Node, command: str
) -> None:
    code = "import sys; from signpost.console import run; from updog import cli; run(cli.program); "
    words = [sys.executable, "-c", code + "print(*sys.modules)", "--config", str(node.config), command]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "updog.agent" in loaded, "it ran"
    assert not HEAVY & loaded


def test_the_help_lists_the_exit_statuses() -> None:
    said = command_line(["--help"])
    for text in (
        "0 done",
        "1 failed",
        "2 wrong usage",
        "3 nothing to do",
        "4 refused",
        "5 repository",
        "75 busy",
    ):
        assert text in " ".join(said.out.split())


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["status", "--no-such-option"],
        ["update", "--image"],
        ["update", "--image", "1.2"],
        ["verify", "--slot", "C"],
        ["--active", "C", "status"],
        ["--log-level", "loud", "status"],
        ["deny-list", "--clear", "x"],
        ["drill", "boot"],
        ["status", "too", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_on_stderr(words: list[str]) -> None:
    said = command_line(words)
    assert said.status == 2
    assert said.out == ""
    assert said.err


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_a_configuration_that_is_missing_or_faulty_is_status_2(
    tmp_path: Path,
    as_json: bool,  # noqa: FBT001 - parametrized
) -> None:
    path = tmp_path / "updog.toml"
    for content in (None, "sead = 3\n"):
        if content is not None:
            path.write_text(content)
        for command in ("status", "update", "confirm", "history"):
            said = command_line(["--config", str(path), command, *(["--json"] if as_json else [])])
            assert said.status == 2
            assert str(path) in said.err
            assert (said.document["error"]["code"] == "config") if as_json else said.out == ""


def test_the_disk_and_the_running_slot_can_be_stated(node: Node) -> None:
    said = node.updog("status", "--json", options=["--disk", str(node.disk), "--active", "B"])
    assert said.document["running"]["slot"] == "B"


def test_a_path_that_is_not_a_disk_fails_and_is_named(node: Node) -> None:
    node.disk.write_bytes(bytes(1 << 20))
    for command in ("status", "update", "confirm"):
        said = node.updog(command)
        assert said.status == 1
        assert "disk.img" in said.err
    assert node.disk.read_bytes() == bytes(1 << 20)


def test_both_copies_of_the_table_bad_is_refused_and_changes_nothing(node: Node) -> None:
    """D23."""
    data = bytearray(node.disk.read_bytes())
    data[512:520] = data[-512:-504] = bytes(8)
    node.disk.write_bytes(data)
    for command in ("status", "check-update", "update", "update-apply", "confirm"):
        assert node.updog(command).status == 1
    assert node.disk.read_bytes() == bytes(data)


def test_one_bad_copy_of_the_table_is_reported_and_repaired_by_the_next_write(node: Node) -> None:
    """D16, D37."""
    with node.disk.open("r+b") as disk:
        disk.seek(512)
        disk.write(bytes(8))
    assert "signpost repair" in node.updog("status").out
    assert node.updog("status", "--json").document["disk"]["faults"]
    assert node.updog("update").status == 0
    assert node.updog("status", "--json").document["disk"]["faults"] == []
    assert node.boot().document["version"] == NEWER


def test_a_reboot_that_was_asked_for_comes_after_the_work(node: Node) -> None:
    node.configure(reboot_command=["cp", str(node.state_file), str(node.folder / "at-reboot.json")])
    process = node.updog_process("update", "--reboot")
    process.communicate()
    assert process.returncode == 0
    assert (node.folder / "at-reboot.json").read_bytes() == node.state_file.read_bytes()


def test_no_reboot_command_is_reported(node: Node) -> None:
    assert "restart the node yourself" in node.updog("update-image").err + node.updog("update", "-r").err
    assert node.updog("update-revert").status == 0
    assert "restart the node yourself" in node.updog("update-apply", "--reboot").err


def test_a_reboot_that_fails_leaves_the_update_applied(node: Node) -> None:
    node.configure(reboot_command=["false"])
    process = node.updog_process("update", "--reboot")
    out, err = process.communicate()
    assert process.returncode == 1
    assert out.startswith("Update applied")
    assert "Reboot manually" in err
    assert node.updog("status", "--json").document["standing"] == "waiting for a restart"


def test_completion_prints_a_script_for_each_shell_of_updog() -> None:
    for shell in ("bash", "zsh", "fish"):
        said = command_line(["completion", shell])
        assert said.status == 0
        assert "_UPDOG_COMPLETE" in said.out


def test_the_version_is_that_of_the_package() -> None:
    assert command_line(["--version"]).out.startswith("updog, version ")


@pytest.mark.parametrize("command", ["status", "history"])
def test_a_real_process_exits_with_the_status_it_reports(node: Node, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from updog.cli import main; main()", "--config", "/no/such/file", command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "/no/such/file" in done.stderr
    process = node.updog_process(command)
    process.communicate()
    assert process.returncode == 0


def test_a_terminal_sees_a_bar(node: Node) -> None:
    """Through a real pseudo-terminal; the result alone goes to stdout."""
    leader, follower = pty.openpty()
    words = [
        sys.executable,
        "-c",
        "from updog.cli import main; main()",
        "--config",
        str(node.config),
        "update",
    ]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=follower, text=True, check=True)
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode(errors="replace")
    os.close(leader)
    assert done.stdout == "Update applied: synthetic 1.1.0; it runs after a restart.\n"
    assert "write root" in shown
    assert "100%" in shown or "━" in shown


@pytest.mark.parametrize("rate", ["fast", "1.5M", "-1", "2 M", "5X", ""])
def test_a_rate_that_is_none_is_a_usage_error(node: Node, rate: str) -> None:
    said = node.updog("prepare", f"--limit-rate={rate}")
    assert (said.status, "such as 500k or 2MiB" in said.err) == (2, True)


def test_the_rate_of_the_command_line_overrides_the_configured_one(node: Node) -> None:
    """Real time: what crosses takes as long as the rate says; configured is a rate that would take hours."""
    folder = node.repository.folder
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with HttpServer(files) as server:
        node.configure(
            metadata_base_url=server.url("metadata"), targets_base_url=server.url("targets"), limit_rate=1
        )
        began = time.monotonic()
        assert node.updog("prepare", "--limit-rate", "20K").status == 0
        took = time.monotonic() - began
        sent = sum(request.sent for request in server.log)
    assert took >= sent / (20 << 10) - 0.3 > 0


def test_long_work_prints_a_line_a_phase_and_with_quiet_nothing(node: Node) -> None:
    lines = node.updog("prepare").err.splitlines()
    assert lines
    assert len(lines) == len({line.split()[0] for line in lines}), lines
    assert node.updog("update", "--quiet").err == ""
    said = node.updog("verify", "--slot", "B", "--quiet")
    assert (said.status, said.err) == (0, "")
    assert [line.split()[:2] for line in node.updog("verify", "--slot", "B").err.splitlines()] == [
        ["verify", "3"]
    ]
