"""repo-tools: images into targets, a signed TUF repository, releases in waves, kept alive and taken back."""
