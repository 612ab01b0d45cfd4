"""External liquidity: orders sent to somebody else, followed until their outcome is known."""
