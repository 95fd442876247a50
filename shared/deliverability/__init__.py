"""What receivers find in DNS about a domain: SPF, DKIM, DMARC. Never on the path of an email."""
