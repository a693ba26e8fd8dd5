"""Look at a disk image with two slots, mark a slot for upgrade, and take the next boot."""

from pathlib import Path

from signpost import gpt, sets
from signpost.app import Signpost, UnbootedDisk
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command

MIB = 1 << 20
GOOD = with_flags(0, Flags(priority=2, successful=True))
PARTS = [
    ("BOOT-A", sets.BOOT, GOOD),
    ("ROOT-A", sets.ROOT, 0),
    ("HASH-A", sets.HASH, 0),
    ("BOOT-B", sets.BOOT, 0),
    ("ROOT-B", sets.ROOT, 0),
    ("HASH-B", sets.HASH, 0),
    ("PRIVATE", sets.PRIVATE, 0),
]
partitions = [
    gpt.NewPartition(kind, gpt.guid(f"00000000-0000-4000-8000-{number:012x}"), MIB, name, attributes)
    for number, (name, kind, attributes) in enumerate(PARTS, start=1)
]
disk_guid = gpt.guid("00000000-0000-4000-8000-000000000000")
with Path("disk.img").open("wb") as file:
    for offset, data in gpt.new_table(partitions, disk_size=16 * MIB, disk_guid=disk_guid).writes():
        file.seek(offset)
        file.write(data)
    file.truncate(16 * MIB)

running = Signpost(OsMedium(), "disk.img", active=Slot.A)  # on a node: find_running(OsMedium())
running.apply(Command.MARK_INACTIVE_VALID, tries=3)
view = running.apply(Command.UPGRADE_TO_INACTIVE)
print(view.next, view.slots[Slot.B].flags.tries, view.faults)
# → B 3 ()

stage = UnbootedDisk(OsMedium(), "disk.img")  # nothing runs from it: a boot stage, a rescue system
print(stage.predict(), stage.take_next(), stage.view().slots[Slot.B].flags.tries)
# → B B 2
