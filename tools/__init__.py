"""Programs for work on Tradewind; no part of what is installed."""
