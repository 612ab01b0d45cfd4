"""The tools that run and prove a Tradewind system."""
