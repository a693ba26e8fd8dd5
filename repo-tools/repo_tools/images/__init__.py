"""Images into targets: inspected, packed in frames; deltas between releases, the dm-verity tree."""
