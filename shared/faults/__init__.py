"""Whose fault a refusal is, and what follows from it: for SMTP replies, and for reports that come after the 250.

`table.py` is the table; `words.py` holds the phrases it looks for; `judge.py` reads a reply and finds the row.
No sockets, no ledger, nothing of any service.
"""
