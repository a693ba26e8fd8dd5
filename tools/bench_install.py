"""`make bench`, second part: what an update costs, over HTTP from Debian's nginx on loopback.

Five parts, selected by ``--only``: ``full`` (a full install, compared with other tools), ``minor`` (bytes and
time of an update by delta), ``resume`` (what is fetched twice after ``kill -9``), ``check`` (a check without
an update), ``memory`` (with a 4 GiB image).

The commands run alternately, A B A B …, as complete processes, and the ratio is computed for each pair. Bytes
are those that nginx has sent, including those that a killed client never read from its socket. The other
tools are Debian packages and only used here; a missing one is reported. ``updog`` is installed as on a node,
without what only a publisher needs: securesystemslib imports a key service's library if it finds one.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fixtures.os.build import build_releases
from tools.bench import VARIANT, run, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BIN = Path(sys.executable).parent
_PARTS = ("full", "minor", "resume", "check", "memory")
_REAL = ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/share")
_MIB = 1 << 20
_HEAD = """| ours / other | ours, median | other, median | ratio min / median / max | pairs |
|---|---|---|---|---|"""


class Server:
    """Debian's nginx serving a folder, and the bytes that it has sent."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "access.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        temporary = "".join(
            f"{kind}_temp_path {folder}/nginx-{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"user root; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;\nevents {{}}\n"
            f"http {{ log_format sent '$body_bytes_sent $request_uri'; access_log {self._log} sent;\n"
            f"sendfile on; {temporary} server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n",
            encoding="utf-8",
        )
        self._process = subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
        while self._process.poll() is None and not (folder / "nginx.pid").exists():
            time.sleep(0.05)

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()

    def sent(self, do: Callable[[], object]) -> list[tuple[int, str]]:
        """Return (bytes of the body, path) of each request during ``do``."""
        before = len(self._lines())
        do()
        time.sleep(0.3)  # nginx logs an answer when its client has disconnected
        pairs = (line.split(maxsplit=1) for line in self._lines()[before:])
        return [(int(count), path) for count, path in pairs]

    def targets(self, do: Callable[[], object]) -> int:
        """Return the bytes of targets that were sent during ``do``."""
        return sum(count for count, path in self.sent(do) if "/targets/" in path)

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A drill node and its original state."""

    folder: Path
    tools: Path

    @classmethod
    def new(cls, bench: Bench, name: str, repo: Path, version: str, sizes: str) -> Node:
        """Make a node that runs ``version`` of a repository."""
        folder, server = bench.folder / name, bench.server
        folder.mkdir()
        disk, url = str(folder / "disk.img"), f"{server.url}/{repo.name}"
        tool = [str(_BIN / "repo-tools"), "--repo", str(repo)]
        run(*tool, "disk", "create", disk, "--version", version, "--slot-size", sizes)
        places = ["--metadata-url", f"{url}/metadata/", "--targets-url", f"{url}/targets/"]
        root = ["--trusted-root", str(repo / "metadata/1.root.json")]
        named = ["--variant", VARIANT, "--version", version]
        run(str(bench.tools / "updog"), "drill", "new", str(folder), *places, *root, *named)
        shutil.copytree(folder / "state", folder / "saved")
        with (folder / "disk.img").open("rb") as file:
            (folder / "table").write_bytes(file.read(_MIB))
        return cls(folder=folder, tools=bench.tools)

    @property
    def disk(self) -> Path:
        """The disk image."""
        return self.folder / "disk.img"

    def updog(self, *words: str) -> list[str]:
        """Return an updog command line for this node."""
        return [str(self.tools / "updog"), "--config", str(self.folder / "updog.toml"), *words]

    def place(self, role: str = "ROOT") -> tuple[int, int]:
        """Return offset and size (bytes) of a partition of the second slot."""
        shown = subprocess.check_output(
            ["partx", "--raw", "--noheadings", "-o", "START,SECTORS,NAME", str(self.disk)], text=True
        )
        (row,) = (line.split() for line in shown.splitlines() if line.endswith(f"{role}-B"))
        return int(row[0]) * 512, int(row[1]) * 512

    def reset(self) -> None:
        """Restore its original state, with zeros in the second slot, completely allocated."""
        shutil.rmtree(self.folder / "state")
        shutil.copytree(self.folder / "saved", self.folder / "state")
        with self.disk.open("r+b") as file:
            file.write((self.folder / "table").read_bytes())
        run(str(self.tools / "signpost"), "--disk", str(self.disk), "repair")
        for role in ("BOOT", "ROOT", "HASH"):
            offset, size = self.place(role)
            run("fallocate", "--zero-range", "--offset", str(offset), "--length", str(size), str(self.disk))
        run("sync", str(self.disk))

    def has(self, image: Path) -> bool:
        """Tell whether the second slot's ROOT contains an image, bit for bit."""
        offset, _ = self.place()
        command = ["cmp", "-s", "-n", str(image.stat().st_size), str(image), str(self.disk), "0", str(offset)]
        return subprocess.run(command, check=False).returncode == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all parts use; ``tools`` is the folder with a node's commands."""

    folder: Path
    server: Server
    tools: Path
    options: argparse.Namespace

    def repo(self, name: str) -> Path:
        """Return a new repository."""
        run(str(_BIN / "repo-tools"), "new", str(self.folder / name))
        return self.folder / name

    def publish(self, repo: Path, version: str, images: Sequence[Path], *more: str) -> None:
        """Publish a boot, a root and a hash image."""
        roles = [f"--{role}={path}" for role, path in zip(("boot", "root", "hash"), images, strict=True)]
        named = ["--variant", VARIANT, "--arch", platform.machine(), "--version", version, "--waves", "none"]
        named += ["--no-inspect"]  # a real root stands beside random bytes
        command = [str(_BIN / "repo-tools"), "--repo", str(repo), "publish", *named, *roles, *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def tiny(self) -> list[Path]:
        """Return three new images of 64 KiB."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for role in ("boot", "root", "hash"):
            (folder / role).write_bytes(os.urandom(65536))
        return [folder / role for role in ("boot", "root", "hash")]

    def big(self) -> tuple[Path, Node, Path]:
        """Return a repository, a node on a tiny release of it, and the root image of the next release."""
        repo, image = self.folder / "big", self.folder / "big.erofs"
        if not repo.exists():
            real_image(image, self.folder / "tree", self.options.root * _MIB)
            _, first, third = self.tiny(), *self.tiny()[::2]
            self.repo("big")
            self.publish(repo, "1.0.0", self.tiny())
            self.publish(repo, "1.1.0", [first, image, third], "--level", "3", "--deltas", "0")
            Node.new(self, "big-node", repo, "1.0.0", _sizes(image, "1MiB"))
        return repo, Node(folder=self.folder / "big-node", tools=self.tools), image


def install_node_tools(folder: Path) -> Path:
    """Install the project as on a node; return the folder with its commands."""
    run(sys.executable, "-m", "venv", str(folder))
    project = str(Path(__file__).resolve().parent.parent)
    run(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", project)
    return folder / "bin"


def real_image(image: Path, tree: Path, size: int) -> None:
    """Make an uncompressed erofs with about ``size`` bytes of this machine's Debian files."""
    total = 0
    for top in _REAL:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for path in (Path(folder) / name for name in sorted(files)):
                copy = tree / path.relative_to("/")
                if total < size and path.is_file() and not path.is_symlink() and not copy.exists():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
                    total += path.stat().st_size
    run("mkfs.erofs", "-T0", "--quiet", str(image), str(tree))
    shutil.rmtree(tree)


def _sizes(root: Path, others: str) -> str:
    return f"root={root.stat().st_size // _MIB + 32}MiB,boot={others},hash={others}"


def compare(
    name: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    *,
    pairs: int,
    reset: Callable[[], None] = lambda: None,
) -> str:
    """Run a pair alternately and return one row of the table."""
    mine, theirs = [], []
    for _ in range(pairs):
        reset()
        mine.append(ours())
        theirs.append(other())
    ratios = [one / two for one, two in zip(mine, theirs, strict=True)]
    middle = statistics.median
    spread = f"{min(ratios):.2f} / {middle(ratios):.2f} / {max(ratios):.2f}"
    return f"| {name} | {middle(mine):.2f} s | {middle(theirs):.2f} s | {spread} | {pairs} |"


# -- full ------------------------------------------------------------------------------------------


def full(bench: Bench) -> None:
    """Install a large root image, compared with other tools."""
    repo, node, image = bench.big()
    (pack,) = (repo / "targets").glob("*-1.1.0-root.erofs.zst")
    raw, packed = image.stat().st_size / 1e6, pack.stat().st_size / 1e6
    print(f"\nFull install, root {raw:.0f} MB, pack {packed:.0f} MB\n{_HEAD}")
    out = bench.folder / "peer.img"
    run("fallocate", "--length", str(node.place()[1]), str(out))
    url = f"{bench.server.url}/big/targets/{pack.name}"
    curl = f"curl -sS {url} | zstd -dcq | dd of={out} conv=fsync,notrunc"
    often, seldom = bench.options.pairs, bench.options.slow_pairs
    peers: dict[str, tuple[str, Callable[[], Sequence[str]], int]] = {
        "curl": (r"`curl \| zstd -d \| dd conv=fsync`, unverified", lambda: ["sh", "-c", curl], often),
        "dd": ("the same with `dd bs=1M`", lambda: ["sh", "-c", f"{curl} bs=1M"], often),
        "swupdate": ("`swupdate`, signed, raw, local file", lambda: _swupdate(bench, pack, out), often),
        "rauc": ("`rauc install`, plain bundle, local file", lambda: _rauc(bench, image), often),
        "casync": ("`casync extract` over HTTP", lambda: _casync(bench, image), seldom),
    }
    for tool, (title, prepare, pairs) in peers.items():
        if shutil.which(tool) is None:
            print(f"| full install / {title} | | | not run: `apt-get install {tool}` | 0 |")
            continue
        command = prepare()
        row = compare(
            f"full install / {title}",
            lambda: seconds(node.updog("update-image"), accept=(0,)),
            lambda command=command: seconds(command, accept=(0,)),  # type: ignore[misc]
            pairs=pairs,
            reset=node.reset,
        )
        print(row, flush=True)
    print(f"\nthe slot contains the image bit for bit: {node.has(image)}")


def _certificate(folder: Path) -> None:
    if not (folder / "key.pem").exists():
        usage = ["-addext", "extendedKeyUsage=critical,codeSigning,emailProtection"]
        files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "60",
            "-subj",
            "/CN=bench",
        ]
        subprocess.run([*command, *files, *usage], check=True, stderr=subprocess.DEVNULL)  # fmt: skip


def _casync(bench: Bench, image: Path) -> list[str]:
    """Make a chunk store; return the command that extracts it over HTTP."""
    store, index = bench.folder / "big.castr", bench.folder / "big.caibx"
    run("casync", "make", f"--store={store}", str(index), str(image))
    url, out = bench.server.url, bench.folder / "casync.img"
    extract = f"casync extract --store={url}/{store.name} {url}/{index.name} {out}"
    return ["sh", "-c", f"rm -f {out}; {extract} && sync {out}"]


def _swupdate(bench: Bench, pack: Path, out: Path) -> list[str]:
    """Make a signed update; return the command that installs it."""
    folder = bench.folder / "swu"
    folder.mkdir()
    _certificate(folder)
    shutil.copyfile(pack, folder / "root.zst")
    digest = subprocess.check_output(["sha256sum", str(pack)], text=True).split()[0]
    (folder / "sw-description").write_text(
        'software = { version = "1.0.0"; hardware-compatibility: [ "1.0" ];\n'
        f'images: ( {{ filename = "root.zst"; device = "{out}"; type = "raw"; compressed = "zstd";\n'
        f'installed-directly = true; sha256 = "{digest}"; }} ); }}\n',
        encoding="utf-8",
    )
    sign = "openssl cms -sign -in sw-description -out sw-description.sig -signer cert.pem -inkey key.pem"
    pack_up = "printf 'sw-description\\nsw-description.sig\\nroot.zst\\n' | cpio --quiet -o -H crc > big.swu"
    script = f"cd {folder} && {sign} -outform DER -nosmimecap -binary && {pack_up}"
    subprocess.run(["sh", "-c", script], check=True)
    install = f"swupdate -H bench:1.0 -k {folder}/cert.pem -i {folder}/big.swu && sync {out}"
    return ["sh", "-c", install]


def _rauc(bench: Bench, image: Path) -> list[str]:
    """Make a plain bundle; return the command that installs it on a loop device, with its own D-Bus."""
    folder = bench.folder / "rauc"
    (folder / "bundle").mkdir(parents=True)
    _certificate(folder)
    os.link(image, folder / "bundle/root.img")
    (folder / "bundle/manifest.raucm").write_text(
        "[update]\ncompatible=bench\nversion=1\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=root.img\n",
        encoding="utf-8",
    )
    keys = [f"--cert={folder}/cert.pem", f"--key={folder}/key.pem", f"--keyring={folder}/cert.pem"]
    command = ["rauc", *keys, "bundle", str(folder / "bundle"), str(folder / "big.raucb")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    slots = ""
    for number, letter in enumerate("AB"):
        run("fallocate", "--length", str(image.stat().st_size + 32 * _MIB), str(folder / letter))
        loop = subprocess.check_output(
            ["losetup", "--find", "--show", str(folder / letter)], text=True
        ).strip()
        bench.options.loops.append(loop)
        slots += f"[slot.rootfs.{number}]\ndevice={loop}\ntype=raw\nbootname={letter}\n"
    (folder / "system.conf").write_text(
        f"[system]\ncompatible=bench\nbootloader=noop\nbundle-formats=plain\nstatusfile={folder}/status\n"
        f"[keyring]\npath={folder}/cert.pem\n{slots}",
        encoding="utf-8",
    )
    script = folder / "install.sh"
    script.write_text(
        "export DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SESSION_BUS_ADDRESS\n"
        f"rauc --conf={folder}/system.conf --override-boot-slot=A service & service=$!\n"
        "until rauc status; do sleep 0.02; done\n"
        f"rauc install {folder}/big.raucb; status=$?; kill $service; exit $status\n",
        encoding="utf-8",
    )
    return ["dbus-run-session", "--", "sh", str(script)]


# -- minor -----------------------------------------------------------------------------------------


def minor(bench: Bench) -> None:
    """Update the real system from bookworm to bookworm with security fixes."""
    releases = build_releases(bench.options.cache.resolve(), lambda line: print(line, file=sys.stderr))
    old, new = ([releases[v].boot, releases[v].root, releases[v].hash] for v in ("1.0.0", "1.1.0"))
    repo = bench.repo("minor")
    versions = {"full": "0.8.0", "plain": "0.9.0", "delta": "1.0.0"}  # only the last one gets a delta
    for name, version in versions.items():
        images = bench.tiny() if name == "full" else old
        bench.publish(repo, version, images, "--deltas", "0", "--level", "1")  # nobody fetches these packs
    bench.publish(repo, "1.1.0", new, "--deltas", "1")
    sizes = _sizes(new[1], "64MiB")
    nodes = {
        name: Node.new(bench, f"node-{name}", repo, version, sizes) for name, version in versions.items()
    }
    wire = {}
    for name, node in nodes.items():
        node.reset()
        wire[name] = bench.server.targets(lambda node=node: seconds(node.updog("update-image"), accept=(0,)))  # type: ignore[misc]
    said = ", ".join(f"{name} {count / 1e6:.2f} MB" for name, count in wire.items())
    print(f"\nMinor update 1.0.0 → 1.1.0, all bytes of targets that nginx sent: {said}", flush=True)
    patches = sum(_smallest_patch(bench.folder, one, two) for one, two in zip(old, new, strict=True))
    blocks = sum(_missing_blocks(one, two) for one, two in zip(old, new, strict=True))
    print("| how | MB | to beat, MB | ratio |\n|---|---|---|---|")
    print(_bytes("with delta / smaller of `patch-from` and `xdelta3`, each image", wire["delta"], patches))
    print(_bytes("without delta / missing 4 KiB blocks, `zstd -16` each", wire["plain"], blocks))
    print(f"\n{_HEAD}")
    lines = (("", "0"), (", at 1 Gbit/s", "125M"))
    for (line, rate), name in product(lines, ("delta", "plain")):
        words = ("update-image", "--limit-rate", rate)
        row = compare(
            f"minor update, {name} / full install of the same{line}",
            lambda name=name, words=words: seconds(nodes[name].updog(*words), accept=(0,)),  # type: ignore[misc]
            lambda words=words: seconds(nodes["full"].updog(*words), accept=(0,)),  # type: ignore[misc]
            pairs=bench.options.pairs,
            reset=lambda name=name: _reset(nodes[name], nodes["full"]),  # type: ignore[misc]
        )
        print(row, flush=True)
    print(f"\nidentical in all three: {all(node.has(new[1]) for node in nodes.values())}")


def _reset(*nodes: Node) -> None:
    for node in nodes:
        node.reset()


def _bytes(name: str, ours: int, other: int) -> str:
    return f"| {name} | {ours / 1e6:.2f} | {other / 1e6:.2f} | {ours / other:.2f} |"


def _smallest_patch(folder: Path, old: Path, new: Path) -> int:
    """Return the size of the smaller one of two tools' patches."""
    one, two = folder / "patch.zst", folder / "patch.xd3"
    run("zstd", "-19", "--long=31", "-qf", f"--patch-from={old}", str(new), "-o", str(one))
    run("xdelta3", "-9", "-S", "lzma", "-f", "-e", "-s", str(old), str(new), str(two))
    return min(one.stat().st_size, two.stat().st_size)


def _missing_blocks(old: Path, new: Path) -> int:
    """Return the size of the 4 KiB blocks that the old image lacks, each compressed by itself."""
    import zstandard

    def blocks(path: Path) -> list[bytes]:
        data = path.read_bytes()
        return [data[at : at + 4096] for at in range(0, len(data), 4096)]

    have = {*blocks(old), bytes(4096)}
    compress = zstandard.ZstdCompressor(level=16).compress
    return sum(len(compress(block)) for block in dict.fromkeys(blocks(new)) if block not in have)


# -- resume ----------------------------------------------------------------------------------------


def resume(bench: Bench) -> None:
    """Kill an install at random times and measure what is fetched twice."""
    _, node, image = bench.big()
    command = node.updog("update-image")
    node.reset()
    took = 0.0

    def once() -> None:
        nonlocal took
        took = seconds(command, accept=(0,))

    usual = bench.server.targets(once)
    chance = random.Random(4)  # noqa: S311 - the same times in each run
    again, finished, identical = [], 0, 0
    for _ in range(bench.options.kills):
        node.reset()
        sent = bench.server.targets(lambda: _killed(command, chance.uniform(0.1, 0.9) * took))
        finished += node.has(image)
        rest = bench.server.targets(lambda: seconds(command, accept=(0, 3)))
        again.append(sent + rest - usual)
        identical += node.has(image)
    print(f"\nResume after kill -9 at 10 to 90 % of {took:.1f} s; a run without fetches {usual / 1e6:.2f} MB")
    spread = [count / 1e6 for count in (min(again), statistics.median(again), max(again))]
    print(
        "| fetched twice, MB, min / median / max | identical | all written before the kill |\n|---|---|---|"
    )
    found = f"{identical} of {len(again)} | {finished}"
    print(f"| {spread[0]:.2f} / {spread[1]:.2f} / {spread[2]:.2f} | {found} |", flush=True)


def _killed(command: Sequence[str], after: float) -> None:
    """Run a command and kill it after so many seconds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# -- check and memory ------------------------------------------------------------------------------


def check(bench: Bench) -> None:
    """Check for an update when there is none."""
    repo = bench.repo("quiet")
    bench.publish(repo, "1.0.0", bench.tiny())
    node = Node.new(bench, "node-quiet", repo, "1.0.0", "root=1MiB,boot=1MiB,hash=1MiB")
    command = node.updog("check-update")
    seconds(command)
    sent = bench.server.sent(lambda: seconds(command))
    print(f"\nNo-update check: {len(sent)} requests, {sum(count for count, _ in sent)} bytes of bodies:")
    for count, path in sent:
        print(f"  {count} {path.partition('?')[0]}")
    other = [str(bench.tools / "python"), "-c", "import tuf.ngclient"]
    print(_HEAD)
    pairs = max(bench.options.pairs, 11)
    print(compare("no-update check / `python3 -c 'import tuf.ngclient'`", lambda: seconds(command),
                  lambda: seconds(other), pairs=pairs), flush=True)  # fmt: skip


def memory(bench: Bench) -> None:
    """Install an image of 4 GiB, 2 GiB of them real data."""
    _, _, real = bench.big()
    old, new = bench.folder / "old4", bench.folder / "new4"
    _four_gib(old, real, shift=0)
    _four_gib(new, real, shift=3 * 4096)
    repo = bench.repo("four")
    tiny = bench.tiny()
    bench.publish(repo, "0.9.0", bench.tiny(), "--deltas", "0")
    bench.publish(repo, "1.0.0", [tiny[0], old, tiny[2]], "--deltas", "0", "--level", "1")
    tiny = bench.tiny()
    bench.publish(repo, "1.1.0", [tiny[0], new, tiny[2]], "--deltas", "1", "--level", "1")
    print("\nPeak memory, 4 GiB image\n| how | MiB | wall | identical |\n|---|---|---|---|")
    for name, version in (("full", "0.9.0"), ("by delta", "1.0.0")):
        node = Node.new(bench, f"node-4-{version}", repo, version, _sizes(new, "1MiB"))
        node.reset()
        began = time.perf_counter()
        peak = _peak(node.updog("update-image"))
        print(
            f"| {name} | {peak / 1024:.0f} | {time.perf_counter() - began:.0f} s | {node.has(new)} |",
            flush=True,
        )
        shutil.rmtree(node.folder)


def _four_gib(path: Path, real: Path, *, shift: int) -> None:
    """Write real data four times, then zeros; with a ``shift``, 16 ranges of it are different."""
    data = real.read_bytes()[: 512 * _MIB]
    with path.open("wb") as file:
        for _ in range(4):
            file.write(data)
        for number in range(16 if shift else 0):
            at = number * 31 * _MIB
            file.seek(at)
            file.write(data[at + 256 * _MIB // 16 + shift :][: 2 * _MIB])
        file.truncate(4096 * _MIB)


_WEIGH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak(command: Sequence[str]) -> int:
    """Run a command; return the peak memory of its process, in KiB.

    A small process starts it, because the kernel also counts the memory from before exec.
    """
    return int(subprocess.check_output([sys.executable, "-c", _WEIGH, *command]))


def main() -> None:
    """Measure the selected parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path(".cache/os"))
    parser.add_argument("--only", action="append", choices=_PARTS, help="only this part; may be repeated")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--slow-pairs", type=int, default=5, help="for casync, which is slow")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--root", type=int, default=430, metavar="MIB", help="size of the large root image")
    options = parser.parse_args()
    options.loops = []
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed wheel keeps its compiled modules
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is missing: apt-get install nginx casync rauc swupdate xdelta3")
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        Path(name).chmod(0o755)
        server = Server(Path(name))
        tools = install_node_tools(Path(name) / "tools")
        bench = Bench(folder=Path(name), server=server, tools=tools, options=options)
        try:
            for part in options.only or _PARTS:
                globals()[part](bench)
        finally:
            server.close()
            for loop in options.loops:
                subprocess.run(["losetup", "--detach", loop], check=False)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
