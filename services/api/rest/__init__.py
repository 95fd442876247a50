"""The HTTP API: routes, status codes, idempotency keys, problem documents."""
