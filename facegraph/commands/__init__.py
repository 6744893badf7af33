"""Subcommands of ``facegraph``: each module has ``register(subparsers)``."""
