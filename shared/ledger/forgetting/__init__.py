"""Forgetting: results of campaigns that ended long ago are deleted, while their counts and a summary stay.

`due.py` says which campaigns, `lease.py` lets one process do it and doubts clocks, `deletion.py` deletes in short
transactions, `people.py` keeps what unsubscribe links need, and `run.py` puts them together. See docs/forgetting.md.
"""
