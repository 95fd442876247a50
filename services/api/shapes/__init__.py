"""What goes in and out of the use cases: checked values without behaviour, shared by `rest` and `page`.

They double as the schemas of the HTTP API, so a field's description is read by the API's clients.
"""
