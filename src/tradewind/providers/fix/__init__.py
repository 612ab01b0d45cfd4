"""FIX 4.4 to a provider of liquidity: frames, session, sequence numbers, the orders on top."""
