"""`make demo`: the main task, end to end, on a real Debian system, with the commands that operators type.

A signed repository publishes two releases in waves. A node installs the newer one into its inactive slot,
verifies, boots and confirms it. Then it falls back from a third, broken release and reports why. Every line
that starts with `$` is a command that you can type yourself; the folder is kept for that.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fixtures.os.build import build_releases
from fixtures.os.errors import BuildError
from signpost.text import table, traffic_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.os.release import Release

VARIANT = "demo"
SEED = "1203"  # in the middle of the fleet, so that the first waves do not include it
_BIN = Path(sys.executable).parent
_NOTHING_TO_DO, _BOOT_FAILED = 3, 1
_QUICK = ("--level", "6", "--deltas", "1")  # faster than the defaults, which make smaller packs


class DemoError(Exception):
    """A command did not end with the expected exit status."""


@dataclass(kw_only=True, slots=True)
class Row:
    """One line of the closing timeline."""

    seconds: float
    event: str
    running: str
    flags: dict[str, str]
    wire: int


@dataclass(kw_only=True, slots=True)
class Demo:
    """The demo's folder, and what has happened so far."""

    folder: Path
    url: str = ""
    started: float = field(default_factory=time.monotonic)
    rows: list[Row] = field(default_factory=list)

    @property
    def node(self) -> Path:
        """The drill's node."""
        return self.folder / "node"

    def title(self, text: str) -> None:
        """Print a heading."""
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def run(self, *words: str, expect: int = 0) -> None:
        """Show and run a command. Raises DemoError if it does not end with the expected exit status."""
        print(f"$ {shlex.join(words)}", flush=True)
        status = subprocess.run([str(_BIN / words[0]), *words[1:]], cwd=self.folder, check=False).returncode
        if status != expect:
            raise DemoError(f"{shlex.join(words)} ended with exit status {status}, not {expect}")
        if expect:
            print(f"(exit status {status})", flush=True)

    def updog(self, *words: str, expect: int = 0) -> None:
        """Run updog on the node."""
        self.run("updog", "--config", "node/updog.toml", *words, expect=expect)

    def repo(self, *words: str, expect: int = 0) -> None:
        """Run repo-tools on the repository."""
        self.run("repo-tools", "--repo", "repo", *words, expect=expect)

    def asked(self, *words: str) -> dict[str, Any]:
        """Return the JSON document of an updog command."""
        command = [str(_BIN / "updog"), "--config", "node/updog.toml", *words, "--json"]
        document: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=self.folder))
        return document

    def planned(self, *words: str) -> int:
        """Return the number of bytes that the update still has to fetch."""
        return int(self.asked("plan", *words)["total"])

    def record(self, event: str, *, wire: int = 0) -> None:
        """Add a line to the timeline: the event, what runs, and the flags of both slots."""
        status = self.asked("status")
        running = status["running"]
        flags = {name: _flags(slot) for name, slot in status["slots"].items()}
        mark = "" if running["confirmed"] else "?"
        self.rows.append(
            Row(
                seconds=time.monotonic() - self.started,
                event=event,
                running=f"{running['slot']} {running['version']}{mark}",
                flags=flags,
                wire=wire,
            )
        )

    def publish(self, release: Release, *more: str) -> None:
        """Publish a release of the real system."""
        images = [f"--{role}=images/{release.version}/{path.name}" for role, path in release.images().items()]
        named = ("--variant", VARIANT, "--arch", platform.machine(), "--version", release.version)
        self.repo("publish", *named, *images, *_QUICK, *more)

    def timeline(self) -> str:
        """Return the table at the end."""
        rows = [
            (
                f"{row.seconds:6.1f}",
                row.event,
                row.running,
                row.flags["A"],
                row.flags["B"],
                traffic_text(row.wire) if row.wire else "",
            )
            for row in self.rows
        ]
        return table([("     s", "event", "runs", "slot A", "slot B", "wire"), *rows])


def _flags(slot: dict[str, Any]) -> str:
    """Return a slot's version and flags as short text."""
    good = "ok" if slot["successful"] else "-"
    return f"{slot['version'] or '-'} {slot['priority']}/{slot['tries_left']}/{good}"


@contextmanager
def served(demo: Demo) -> Iterator[str]:
    """Serve the repository on loopback and yield its URL."""
    command = [str(_BIN / "repo-tools"), "--repo", "repo", "serve", "--port", "0", "--json"]
    server = subprocess.Popen(command, cwd=demo.folder, stdout=subprocess.PIPE, text=True)
    try:
        yield _url(server)
    finally:
        server.terminate()  # not SIGINT, which a job in the background of a script ignores
        server.wait()


def _url(server: subprocess.Popen[str]) -> str:
    """Read the URL from the server's first line."""
    if server.stdout is None:
        raise DemoError("the server has no output")
    line = server.stdout.readline()
    if not line:
        raise DemoError("the server did not start")
    url: str = json.loads(line)["url"]
    print(f"$ repo-tools --repo repo serve   # at {url}", flush=True)
    return url


def play(demo: Demo, releases: dict[str, Release]) -> None:
    """Run all parts of the demo."""
    demo.title("1. A signed repository with a first release, and a node made from it")
    demo.run("repo-tools", "new", "repo")
    demo.publish(releases["1.0.0"], "--waves", "none")
    demo.node.mkdir()
    demo.repo("disk", "create", "node/disk.img", "--version", "1.0.0")
    with served(demo) as demo.url:
        url = demo.url
        places = ("--metadata-url", f"{url}/metadata/", "--targets-url", f"{url}/targets/")
        root = ("--trusted-root", "repo/metadata/1.root.json")
        demo.run(
            "updog", "drill", "new", "node", *places, *root,
            "--variant", VARIANT, "--version", "1.0.0", "--seed", SEED,
        )  # fmt: skip
        demo.record("node made")
        take_the_security_update(demo, releases["1.1.0"])
        refuse_the_broken_one(demo, releases["1.2.0"])
    demo.title("5. The repository passes its check")
    demo.repo("validate")


def take_the_security_update(demo: Demo, release: Release) -> None:
    """1.1.0: published in waves, not yet ready, ready, installed, booted, confirmed."""
    demo.title("2. A security update, published in waves")
    demo.publish(release, "--waves", "default")
    demo.repo("waves", "show", release.version)
    demo.updog("why", expect=_NOTHING_TO_DO)
    earlier = (datetime.now(UTC) - timedelta(hours=4)).strftime("%Y-%m-%dT%H:%M:%SZ")
    demo.repo("waves", "set", release.version, "--waves", "ohno", "--start-at", earlier)
    demo.title("3. The node installs it into its inactive slot, boots it and confirms")
    demo.updog("check-update")
    demo.updog("plan")
    wire = demo.planned()
    demo.updog("update")
    demo.record("1.1.0 installed and applied", wire=wire)
    demo.run("signpost", "--disk", "node/disk.img", "--active", "A", "status")
    demo.run("updog", "drill", "boot", "node")
    demo.record("booted into 1.1.0")
    demo.updog("confirm")
    demo.record("1.1.0 confirmed")
    demo.updog("verify")


def refuse_the_broken_one(demo: Demo, release: Release) -> None:
    """1.2.0: installed, fails to start, the node falls back and denies it."""
    demo.title("4. A broken release: the node does not stay on it")
    demo.publish(release, "--waves", "default")
    wire = demo.planned("--now")
    demo.updog("update", "--now")  # an operator did not want to wait for the wave
    demo.record("1.2.0 installed and applied", wire=wire)
    demo.run("updog", "drill", "boot", "node", "--fail", "init", expect=_BOOT_FAILED)
    demo.run("updog", "drill", "boot", "node")
    demo.record("1.2.0 failed, back on 1.1.0")
    demo.updog("check-update", expect=_NOTHING_TO_DO)
    demo.updog("status")
    demo.updog("history")


def main() -> None:
    """Build or find the releases, run the demo, print the timeline."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache/demo"), help="where to work; created again"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/os"), help="where built images are kept")
    options = parser.parse_args()
    print("Two releases of a small Debian system and a broken third one (built once, then kept):", flush=True)
    try:
        releases = build_releases(options.cache.resolve(), lambda line: print(f"  {line}", flush=True))
    except BuildError as error:
        sys.exit(f"demo: {error.what}: {error.cause}\n  next: {error.next_step}")
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    demo = Demo(folder=options.folder.resolve())
    (demo.folder / "images").symlink_to(releases["1.0.0"].folder.parent)
    play(demo, releases)
    demo.title("Timeline (? is not confirmed yet; a slot's flags are priority/tries left/successful)")
    print(demo.timeline())
    rollback = demo.asked("status")["last_rollback"]
    print(f"\nLast rollback: {rollback['code']}: {rollback['sentence']}")
    port = demo.url.rpartition(":")[2]
    print(f"\nThe folder stays. To continue: `. .venv/bin/activate; cd {options.folder}`,")
    print(f"`repo-tools --repo repo serve --port {port} &`, `updog --config node/updog.toml why`.")


if __name__ == "__main__":
    main()
