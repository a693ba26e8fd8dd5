#!/bin/sh
# First program of a start: opens ROOT and hands over to systemd. From the kernel's command line it takes
#   roothash=HEX                                      dm-verity's root hash of ROOT (from the boot entry)
#   systemd.verity_root_data=PARTUUID=…, …_hash=…     ROOT and HASH (from the boot stage)
# Anything that goes wrong restarts the machine: the boot stage then has one try less. So does anything that
# hangs: the watchdog runs from here on, and systemd takes it over.
# /settings has ETC (read-only, transient, persistent) and INIT (systemd's path).
export PATH=/bin
/bin/busybox --install -s /bin
. /settings

say() {
    echo "initrd: $1" >/dev/console
}

fail() {
    say "$1"
    sleep 2
    reboot -f
    echo b >/proc/sysrq-trigger
    sleep 3600
}

argument() {
    for word in $(cat /proc/cmdline); do
        case "$word" in "$1="*) echo "${word#*=}" ;; esac
    done | tail -n 1
}

load() {
    for module in "$1"/*; do
        [ -e "$module" ] && insmod "$module" 2>/dev/null
    done
}

# The partition of PRIVATE is the one of that name on the disk that ROOT is on: another disk may have slots, too.
private_partition() {
    disk=$(dirname "$(readlink -f "/sys/class/block/${1##*/}")")
    for part in "$disk"/*/uevent; do
        if grep -qx PARTNAME=BOTTLEROCKET-PRIVATE "$part"; then
            echo "/dev/$(basename "$(dirname "$part")")"
            return
        fi
    done
}

# Only where nothing was ever written: a file system that cannot be mounted is not made anew.
is_blank() {
    [ "$(dd if="$1" bs=64k count=16 2>/dev/null | tr -d '\000' | head -c 1 | wc -c)" -eq 0 ]
}

# systemd makes another ID at each start of an /etc that forgets. updog keeps that of the first start on PRIVATE
# (updog.tmpfiles), and here it is put back. On the first start there is none, and nothing depends on it.
keep_machine_id() {
    private=$(private_partition "$1")
    [ -b "$private" ] && mount -t ext4 -o ro "$private" /private 2>/dev/null || return 0
    if grep -qxE '[0-9a-f]{32}' /private/machine-id; then
        cat /private/machine-id >/sysroot/etc/machine-id && say "the machine-id is that of PRIVATE"
    fi
    umount /private
}

overlay_etc() {
    mkdir -p "$1/upper" "$1/work" || fail "/etc cannot be made writable: $1 cannot be written"
    mount -t overlay overlay -o "lowerdir=/sysroot/etc,upperdir=$1/upper,workdir=$1/work" /sysroot/etc ||
        fail "/etc cannot be made writable"
}

umask 022
mount -t devtmpfs -o mode=0755,nosuid dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755,nosuid,nodev run /run
say "started, kernel $(uname -r)"

load /modules
[ -e /dev/watchdog ] || load /softdog
echo armed >/dev/watchdog # closed without the letter V it goes on counting

mkdir -p /private
data=
hash=
for _ in $(seq 60); do
    data=$(/programs/findfs "$(argument systemd.verity_root_data)" 2>/dev/null)
    hash=$(/programs/findfs "$(argument systemd.verity_root_hash)" 2>/dev/null)
    [ -b "$data" ] && [ -b "$hash" ] && break
    sleep 0.5
done
[ -b "$data" ] && [ -b "$hash" ] || fail "no ROOT or HASH partition of the GUIDs that the boot stage named"

/programs/veritysetup open --panic-on-corruption "$data" root "$hash" "$(argument roothash)" ||
    fail "ROOT cannot be opened"
mount -t erofs -o ro /dev/mapper/root /sysroot || fail "ROOT cannot be mounted"
say "ROOT is verified and mounted from $data"

case "$ETC" in
transient)
    overlay_etc /run/etc
    keep_machine_id "$data"
    ;;
persistent)
    private=$(private_partition "$data")
    [ -b "$private" ] || fail "the disk of $data has no partition BOTTLEROCKET-PRIVATE"
    if is_blank "$private"; then
        say "making a file system on $private"
        /programs/mke2fs -q -F -t ext4 -L PRIVATE "$private" || fail "no file system can be made on $private"
    fi
    mount -t ext4 -o noatime "$private" /private || fail "PRIVATE cannot be mounted"
    chmod 0700 /private
    overlay_etc /private/etc
    umount /private # the overlay keeps it in use
    ;;
esac

for folder in dev proc sys run; do
    mount --move "/$folder" "/sysroot/$folder" || fail "/$folder cannot be handed over"
done
exec switch_root /sysroot "/$INIT"
