"""The development mailbox: an SMTP server that keeps what it gets, and a page that shows it."""
