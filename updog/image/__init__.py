"""Images: from a verified stream of compressed bytes to a partition that was read back."""
