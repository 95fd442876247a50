"""The page: campaigns, failures, processes and suppressions for a person with a browser.

Its views call the handlers of the API, so what the page can do and what it refuses is what the API does and refuses.
"""
