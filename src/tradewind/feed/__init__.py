"""Quotes: replay of tick files, a simulated market, a flash crash, and the publisher that sends them out.

    source (replay or simulation) -> flash crash (optional) -> publisher -> publish(frame)

A source is asked for the quotes that are due; nothing is pushed, so nothing can pile up. Prices are integers.
"""
