"""Keys: where private keys are, who holds them, and signing with them."""
