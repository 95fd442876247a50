"""Peers for the delivery engine's tests: servers nobody here wrote, and one that misbehaves on purpose."""
