"""The services. None starts on compiled modules whose sources have changed: their imports may fail."""

import sys

from shared.compiled import is_compiled
from shared.errors import ConfigurationError

try:
    is_compiled()
except ConfigurationError as error:
    sys.stderr.write(f"services: {error}\n")
    sys.exit(error.exit_code)
