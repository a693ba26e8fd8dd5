"""signpost: which of two slots boots.

The ground floor of the house: it reads and durably rewrites the GPT priority, tries-left and
successful bits of the two BOOT partitions, and predicts what the bootloader will take. Its core
imports the standard library only, so that it runs inside an initramfs.
"""
