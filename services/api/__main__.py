from services.api.main import body
from shared import process
from shared.settings import ApiSettings

if __name__ == "__main__":
    process.main("api", ApiSettings, body)
