"""Read and verify a repository as a client does: sources, chain of trust, channels, findings, expirations."""
