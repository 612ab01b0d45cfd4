"""redis-py's own asyncio tests as the judge of "drop-in"; see docs/redis-py-suite.md."""
