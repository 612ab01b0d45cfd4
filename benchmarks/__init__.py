"""Measurements of Tradewind, alone and beside other clients: `python -m benchmarks`, see README.md."""
