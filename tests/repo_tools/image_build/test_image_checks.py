"""What keeps a tree from being a node's system is found before anything is built, with a code."""

from __future__ import annotations

import pytest

from repo_tools.errors import ImageFaultsError
from repo_tools.image_build.checks import CODES, find_faults, require_sound
from repo_tools.image_build.request import BuildRequest, Etc, InitrdKind
from repo_tools.image_build.tree import Inode, file, link
from tests.support.trees import KERNEL, ROOT_JSON, elf, module, sound_tree
from updog.update_metadata.version import Version

MODULES = f"usr/lib/modules/{KERNEL}/kernel"
BY_DRACUT = BuildRequest(initrd=InitrdKind.DRACUT, etc=Etc.READ_ONLY)
WANTS = "etc/systemd/system/multi-user.target.wants"

FAULTY: list[tuple[str, dict[str, Inode | None], str]] = [
    ("os-release", {"usr/lib/os-release": None}, "no /usr/lib/os-release"),
    ("os-release", {"usr/lib/os-release": file(b'NAME="open\n')}, "can be read"),
    ("version", {"usr/lib/os-release": file(b"VERSION_ID=12\nVARIANT_ID=box\n")}, '"12"'),
    ("version", {"usr/lib/os-release": file(b"VARIANT_ID=box\n")}, "no VERSION_ID"),
    ("variant", {"usr/lib/os-release": file(b"VERSION_ID=1.2.3\n")}, "no VARIANT_ID"),
    ("variant", {"usr/lib/os-release": file(b"VERSION_ID=1.2.3\nVARIANT_ID=a/b\n")}, '"a/b"'),
    ("no-systemd", {"usr/lib/systemd/systemd": None, "sbin/init": file(b"")}, "its init is /sbin/init"),
    ("no-systemd", {"usr/lib/systemd/systemd": file(elf())}, "no /usr/lib/systemd/systemd"),
    ("architecture", {"usr/lib/systemd/systemd": file(elf(machine=40), mode=0o755)}, "x86_64"),
    ("architecture", {"usr/lib/systemd/systemd": file(b"#!/bin/sh", mode=0o755)}, "x86_64"),
    ("no-kernel", {"usr/lib/modules": None}, "no folder with modules"),
    ("several-kernels", {"usr/lib/modules/5.0/a.ko": file(module())}, f"5.0, {KERNEL}"),
    ("kernel-image", {"boot": None}, KERNEL),
    ("kernel-modules", {f"{MODULES}/fs/erofs": None}, "no module erofs"),
    ("kernel-modules", {f"{MODULES}/fs/overlayfs": None}, "no module overlay"),
    ("initrd-program", {"usr/bin/busybox": None}, "busybox-static"),
    ("initrd-program", {"usr/sbin/veritysetup": None}, "cryptsetup-bin"),
    ("initrd-program", {"usr/sbin/findfs": None}, "util-linux"),
    ("mkfs", {"usr/sbin/mkfs.ext4": None}, "mkfs.ext4"),
    ("no-updog", {"usr/bin/updog": None}, "/usr/bin/updog"),
    ("updog-units", {f"{WANTS}/updog-confirm.service": None}, "updog-confirm.service"),
    ("updog-units", {"etc/systemd/system/updog-confirm.service": link("/dev/null")}, "updog-confirm.service"),
    ("updog-units", {"usr/lib/systemd/system/updog-boot-record.service": None}, "updog-boot-record.service"),
    ("updog-units", {"etc/systemd/system/timers.target.wants": None}, "one of updog-check.timer"),
    ("watchdog", {"usr/lib/systemd/system.conf.d": None}, "RuntimeWatchdogSec"),
    ("watchdog", {"etc/systemd/system.conf": file(b"RuntimeWatchdogSec=off\n")}, "RuntimeWatchdogSec"),
    ("updog-config", {"etc/updog.toml": None}, "no /etc/updog.toml"),
    ("updog-config", {"etc/updog.toml": file(b"= 3")}, "not TOML"),
    (
        "updog-config",
        {"etc/updog.toml": file(b"machine_id = 'x'\n")},
        "metadata_base_url and targets_base_url",
    ),
    ("trusted-root", {"usr/share/updog/root.json": None}, "no /usr/share/updog/root.json"),
    ("trusted-root", {"usr/share/updog/root.json": file(b"{}")}, "not a root.json"),
    (
        "trusted-root",
        {"usr/share/updog/root.json": file(b'{"signed": {"_type": "targets"}}')},
        '"targets" of a repository',
    ),
    ("fstab", {"etc/fstab": file(b"UUID=12 / ext4 errors=remount-ro 0 1\n")}, "on /"),
    ("fstab", {"etc/fstab": file(b"#\nUUID=1 /boot\\057efi vfat umask=0077 0 1\n")}, "on /boot/efi"),
    ("fstab-swap", {"etc/fstab": file(b"/dev/sda2 none swap sw 0 0\n")}, '"/dev/sda2"'),
    ("machine-id", {"etc/machine-id": file(b"0123456789abcdef0123456789abcdef\n")}, "one machine"),
    ("ssh-host-keys", {"etc/ssh/ssh_host_ed25519_key": file(b"k")}, "/etc/ssh/ssh_host_ed25519_key"),
    ("random-seed", {"var/lib/systemd/random-seed": file(b"r")}, "random-seed"),
]


def test_a_sound_system_has_no_fault() -> None:
    assert find_faults(sound_tree(), BuildRequest()) == []
    require_sound([])


@pytest.mark.parametrize(("code", "changes", "said"), FAULTY)
def test_each_fault_is_found_alone_by_its_code(
    code: str, changes: dict[str, Inode | None], said: str
) -> None:
    (fault,) = find_faults(sound_tree(changes), BuildRequest())
    assert fault.code == code
    assert said in fault.message
    assert fault.next_step == CODES[code]


def test_every_code_is_tested() -> None:
    assert {code for code, _, _ in FAULTY} | {"no-initrd", "machine-id-file"} == set(CODES)


def test_all_faults_are_told_at_once_with_what_to_do() -> None:
    tree = sound_tree({"usr/bin/updog": None, "usr/lib/modules": None})
    with pytest.raises(ImageFaultsError, match="2 faults") as caught:
        require_sound(find_faults(tree, BuildRequest()))
    assert "no-updog: " in caught.value.message
    assert CODES["no-kernel"] in caught.value.message


def test_a_container_of_another_distribution_is_told_what_it_lacks() -> None:
    codes = {fault.code for fault in find_faults(sound_tree({"usr": None, "etc": None}), BuildRequest())}
    assert {"os-release", "no-systemd", "no-kernel", "no-updog", "updog-config", "initrd-program"} <= codes


@pytest.mark.parametrize(
    ("changes", "request_"),
    [
        ({"usr/lib/os-release": file(b"ID=x\n")}, BuildRequest(version=Version.parse("1.0.0"), variant="v")),
        ({"usr/lib/modules/5.0/a.ko": file(module())}, BuildRequest(kernel=KERNEL)),
        ({"usr/share/updog/root.json": None}, BuildRequest(trusted_root=ROOT_JSON)),
        ({f"{MODULES}/fs/overlayfs": None}, BuildRequest(etc=Etc.READ_ONLY)),
        ({"usr/bin/busybox": None}, BY_DRACUT),
        (
            {
                "etc/machine-id": file(b"0123456789abcdef0123456789abcdef\n"),
                "etc/ssh/ssh_host_rsa_key": file(b"k"),
                "var/lib/systemd/random-seed": file(b"r"),
            },
            BuildRequest(reset_identity=True),
        ),
        ({"boot": None, f"usr/lib/modules/{KERNEL}/vmlinuz": file(b"k")}, BuildRequest()),
        ({"boot": None, "boot/vmlinuz": file(b"k")}, BuildRequest()),
        ({"etc/machine-id": file(b"uninitialized\n")}, BuildRequest()),
        ({"etc/fstab": file(b"UUID=7 /srv/photos xfs nofail 0 2\n")}, BuildRequest()),
    ],
)
def test_an_option_or_another_place_makes_it_sound(
    changes: dict[str, Inode | None], request_: BuildRequest
) -> None:
    assert find_faults(sound_tree(changes), request_) == []


def test_a_persistent_etc_needs_what_makes_a_file_system_before_systemd_runs() -> None:
    tree = sound_tree({"usr/sbin/mke2fs": None, "usr/sbin/mkfs.ext4": file(elf(), mode=0o755)})
    assert find_faults(tree, BuildRequest()) == []
    (fault,) = find_faults(tree, BuildRequest(etc=Etc.PERSISTENT))
    assert (fault.code, "e2fsprogs" in fault.message) == ("initrd-program", True)


@pytest.mark.parametrize("etc", Etc)
def test_only_where_etc_cannot_be_written_updog_is_told_of_a_machine_id_that_stays(etc: Etc) -> None:
    tree = sound_tree({"etc/updog.toml": file(b"metadata_base_url = 'x'\ntargets_base_url = 'x'\n")})
    codes = [fault.code for fault in find_faults(tree, BuildRequest(etc=etc))]
    assert codes == (["machine-id-file"] if etc is Etc.READ_ONLY else [])


def test_a_kernel_that_is_not_there_is_told_with_those_that_are() -> None:
    (fault,) = find_faults(sound_tree(), BuildRequest(kernel="9.9"))
    assert (fault.code, KERNEL in fault.message) == ("no-kernel", True)


def test_an_initrd_of_dracut_has_to_be_there_or_to_be_made() -> None:
    bare = {f"boot/initrd.img-{KERNEL}": None}
    (fault,) = find_faults(sound_tree(bare), BY_DRACUT)
    assert fault.code == "no-initrd"
    assert find_faults(sound_tree({**bare, "usr/bin/dracut": file(b"#!", mode=0o755)}), BY_DRACUT) == []


def test_the_root_of_trust_is_looked_for_where_updog_toml_says() -> None:
    settings = (
        b"metadata_base_url = 'x'\ntargets_base_url = 'x'\nmachine_id = 'x'\ntrusted_root = '/etc/r.json'\n"
    )
    (fault,) = find_faults(sound_tree({"etc/updog.toml": file(settings)}), BuildRequest())
    assert (fault.code, fault.message) == ("trusted-root", "there is no /etc/r.json")
