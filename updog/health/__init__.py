"""Whether this boot is healthy: built-in checks, the node's own checks, and the gate that evaluates them."""
