"""Receives VashSender's events: verifies each POST, and stores each event once. `pip install standardwebhooks`."""

import json
import os
import sqlite3
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
store = sqlite3.connect(os.environ.get("EVENTS_DB", "events.db"))
store.execute("CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, type TEXT, data TEXT)")


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            events = webhook.verify(body, dict(self.headers.items()))["data"]
        except WebhookVerificationError:
            self.send_error(401)
            return
        rows = [(event["id"], event["type"], json.dumps(event["data"])) for event in events]
        with store:  # all of them or none; one that comes again changes nothing
            store.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?)", rows)
        self.send_response(204)
        self.end_headers()


HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Receiver).serve_forever()
