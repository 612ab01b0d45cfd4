"""The order engine: accounts, orders, positions and risk.

`book` and what it builds on (`money`, `instruments`, `messages`, `orders`, `account`, `watch`) decide: plain
typed code without I/O and without a clock, so that the same commands and quotes always give the same events.
"""
