"""Any number of concurrent orders through a Redis or Valkey Cluster over a handful of connections."""

__version__ = "0.1.0"

__all__ = ["__version__"]
