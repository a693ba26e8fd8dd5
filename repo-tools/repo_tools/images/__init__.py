"""Images into targets: packed in frames, deltas between releases, the dm-verity tree."""
