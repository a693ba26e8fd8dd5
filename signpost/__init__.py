"""signpost: which of two slots boots.

The lowest of the three packages: it reads and durably writes the flags priority, tries and successful of the
two BOOT partitions in the GPT, and predicts which slot the bootloader takes. Its core imports only the
standard library, so that it runs in an initramfs.
"""
