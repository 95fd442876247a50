"""`python -m services.webhooks`."""

from services.webhooks.main import serve
from shared.process import main
from shared.settings import WebhooksSettings

if __name__ == "__main__":
    main("webhooks", WebhooksSettings, serve)
