"""Recipient lists as they arrive: CSV, NDJSON, JSON. Pushed bytes in, checked rows out."""
