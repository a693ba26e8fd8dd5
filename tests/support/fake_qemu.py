"""A program that replaces QEMU: its command line, its sockets and its console, and a node that is a shell.

The node is a folder, which the test writes and this program reads:

    bin/systemctl, bin/updog    what the shell finds; made by :func:`install`
    jobs                        what `systemctl list-jobs` prints
    status                      what `updog status --json` prints
    next-status                 becomes the status at the next restart
    starts                      what the console shows at each start, one line each; the last one repeats
    lose                        how many bytes of its input the shell does not get after a start
    reboot                      is made by `systemctl reboot`, or by the test
    restart-shell               lets the shell be restarted, as systemd would
    asked                       every call of systemctl
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

from tests.support.serial_port import SerialPort

TAKING_A, TAKING_B = (
    "signpost: /dev/vda: taking slot A, which is confirmed",
    "signpost: /dev/vda: taking slot B",
)
GOING_DOWN = "[  41.2] watchdog: watchdog0: watchdog did not stop!"

_SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$NODE/asked"
case "$1" in
    list-jobs) cat "$NODE/jobs" ;;
    reboot) touch "$NODE/reboot" ;;
esac
"""
_UPDOG = """#!/bin/sh
cat "$NODE/status"
"""
_LOOK_SECONDS = 0.02
_DOWN_SECONDS = 0.3


def install(folder: Path) -> Path:
    """Make a node that is confirmed and idle, and a folder of programs with this one as QEMU; return that."""
    for name, text in (("systemctl", _SYSTEMCTL), ("updog", _UPDOG)):
        _program(folder / "node/bin" / name, text)
    for name, text in (("jobs", ""), ("starts", TAKING_A), ("lose", "0"), ("status", confirmed())):
        (folder / "node" / name).write_text(text)
    root = Path(__file__).resolve().parents[2]
    start = f'NODE={folder}/node PYTHONPATH={root} exec {sys.executable} -m {__name__} "$@"'
    _program(folder / "bin/qemu-system-x86_64", f"#!/bin/sh\n{start}\n")
    return folder / "bin"


def confirmed(*, yes: bool = True) -> str:
    """Return a status."""
    return f'{{"running": {{"slot": "A", "confirmed": {str(yes).lower()}}}}}\n'


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def main(words: list[str]) -> None:
    """Be QEMU until killed, or until the monitor is told to save the machine."""
    line = " ".join(words)
    console = Path(_found(r"id=console,append=on,path=(\S+)", line))
    node = Path(os.environ["NODE"])
    if (node / "broken").exists():
        sys.exit("qemu: something is wrong")
    environment = {"NODE": str(node), "PATH": f"{node}/bin:/usr/bin:/bin"}
    with (
        SerialPort(Path(_found(r"-serial unix:(\S+?),", line)), environment) as port,
        socket.socket(socket.AF_UNIX) as monitor,
    ):
        monitor.bind(_found(r"-monitor unix:(\S+?),", line))
        monitor.listen()
        monitor.settimeout(_LOOK_SECONDS)
        if "-incoming" in words:
            port.start_shell()
        else:
            _start(node, console, port, 0)
        _run(node, console, port, monitor)


def _run(node: Path, console: Path, port: SerialPort, monitor: socket.socket) -> None:
    number = 0
    while True:
        if _taken(node / "reboot"):
            port.stop_shell()
            _show(console, GOING_DOWN)
            if (node / "next-status").exists():
                (node / "next-status").rename(node / "status")
            time.sleep(_DOWN_SECONDS)
            number += 1
            _start(node, console, port, number)
        if _taken(node / "restart-shell"):
            port.restart_shell()
        try:
            client, _ = monitor.accept()
        except TimeoutError:
            continue
        with client:
            Path(_found(r"exec:cat > ([^\"]+)", client.recv(4096).decode())).touch()
            return


def _start(node: Path, console: Path, port: SerialPort, number: int) -> None:
    """Take a slot, and bring a system up in it if one is taken."""
    starts = (node / "starts").read_text().splitlines()
    line = starts[min(number, len(starts) - 1)]
    _show(console, line)
    if "taking slot" in line:
        time.sleep(_DOWN_SECONDS)
        port.lose_input = int((node / "lose").read_text())
        port.start_shell()
        _show(console, "[  12.3] updog[200]: This boot is confirmed.")


def _show(console: Path, line: str) -> None:
    with console.open("a") as file:
        file.write(f"{line}\r\n")


def _taken(request: Path) -> bool:
    if not request.exists():
        return False
    request.unlink()
    return True


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"qemu: no {pattern} in {text}")
    return match[1]


if __name__ == "__main__":
    main(sys.argv[1:])
