"""Create and change the root of trust: new repositories, root proposals that holders sign, new roots."""
