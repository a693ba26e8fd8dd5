"""Why a boot failed: the records of the kernel and the boot stage, and the cause derived from them."""
