"""The boot stage as files: an initial RAM file system, an EFI binary, an EFI system partition.

:mod:`signpost.bootstage` says what the boot stage does; it is built here from a folder with an unpacked
Debian system (kernel, its modules, Python). The same folder always gives the same bytes.
"""
