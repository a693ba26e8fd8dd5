"""updog: the node's side of an update: check, plan, install, apply, confirm or fall back, and say why."""
