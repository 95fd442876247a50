"""Emails as octets: built by the sender, and by the preview of the API, which therefore shows what is sent."""
