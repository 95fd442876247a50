"""The page: campaigns, failures, services and suppressions for a person with a browser.

It calls the same use cases as the HTTP API, so it does and refuses the same.
"""
