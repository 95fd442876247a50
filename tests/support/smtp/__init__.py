"""Peers for the tests of the delivery engine: servers of others, and one that misbehaves on purpose."""
