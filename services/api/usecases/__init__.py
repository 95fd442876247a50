"""What the API does, as plain functions without HTTP.

A use case takes an open transaction, or the ledger if it needs several; raises RefusedError and its subclasses; and
returns values. Its caller publishes the events it returns, once the transaction is committed.
"""
