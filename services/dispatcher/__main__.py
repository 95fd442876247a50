"""`python -m services.dispatcher`."""

from services.dispatcher.main import serve
from shared.process import main
from shared.settings import DispatcherSettings

if __name__ == "__main__":
    main("dispatcher", DispatcherSettings, serve)
