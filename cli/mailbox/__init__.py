"""The development mailbox: an SMTP server that stores every email, and a page that shows them."""
