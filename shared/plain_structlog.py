"""structlog without rich, which it imports where it is installed, for tracebacks that we do not print: with it come
pygments and its lexers, 7 MB in each process. The command imports rich for its tables."""

import sys
from typing import Any, cast

_modules = cast(dict[str, Any], sys.modules)
if "rich" not in _modules and "structlog" not in _modules:
    _modules["rich"] = None  # so that importing it fails
    try:
        import structlog
    finally:
        del _modules["rich"]
else:
    import structlog

__all__ = ["structlog"]
