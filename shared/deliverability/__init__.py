"""What receivers find in DNS about a domain: SPF, DKIM, DMARC. For checks before a campaign, not on the path of mail."""
