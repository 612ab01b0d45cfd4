"""The connection layer: many callers over a handful of connections. Knows nothing of trading."""
