"""What comes back after the 250: bounces, complaints, unsubscribes. Pure functions: a mail goes in, its meaning comes
out.

`read.py` decides what a mail is; `mime.py` takes it apart within bounds; `status.py` reads delivery status
notifications, `plain.py` bounces that are none; `ses.py` reads events of Amazon SES. No sockets, no ledger, nothing of
any service.
"""
