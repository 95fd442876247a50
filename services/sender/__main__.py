"""`python -m services.sender`"""

from services.sender.main import serve
from shared.process import main
from shared.settings import SenderSettings

main("sender", SenderSettings, serve)
