from services.api.main import serve
from shared import process
from shared.settings import ApiSettings

if __name__ == "__main__":
    process.main("api", ApiSettings, serve)
