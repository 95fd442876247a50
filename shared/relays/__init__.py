"""Relays: their URLs and settings, and how a connection to one is opened. The senders and `doctor` share this."""
