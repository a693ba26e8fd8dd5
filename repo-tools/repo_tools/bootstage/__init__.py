"""The boot stage as files: an initial RAM file system, an EFI binary, an EFI system partition.

:mod:`signpost.bootstage` says what the boot stage does; here it is built, from a folder that holds an
unpacked Debian system (kernel, its modules, Python). The same folder always gives the same bytes.
"""
