"""The scope that each route needs. A route without a place here does not start."""

from collections.abc import Iterable, Mapping

from services.api.web.problems import HttpError
from shared.scopes import Scope

ANYONE = None
"""Any valid key will do."""

_READ, _WRITE, _AUDIENCE, _OPERATOR = Scope.CAMPAIGNS_READ, Scope.CAMPAIGNS_WRITE, Scope.AUDIENCE_WRITE, Scope.OPERATOR

SCOPES: Mapping[str, Scope | None] = {
    "GET /v1/campaigns": _READ,
    "POST /v1/campaigns": _WRITE,
    "GET /v1/campaigns/{campaign_id}": _READ,
    "PATCH /v1/campaigns/{campaign_id}": _WRITE,
    "DELETE /v1/campaigns/{campaign_id}": _WRITE,
    "GET /v1/campaigns/{campaign_id}/recipients": _READ,
    "GET /v1/campaigns/{campaign_id}/recipients/export": _READ,
    "POST /v1/campaigns/{campaign_id}/recipients": _WRITE,
    "GET /v1/campaigns/{campaign_id}/imports": _READ,
    "GET /v1/campaigns/{campaign_id}/imports/{import_id}": _READ,
    "POST /v1/campaigns/{campaign_id}/imports/{import_id}/cancel": _WRITE,
    "POST /v1/campaigns/{campaign_id}/preview": _READ,
    "POST /v1/campaigns/{campaign_id}/send": _WRITE,
    "POST /v1/campaigns/{campaign_id}/pause": _WRITE,
    "POST /v1/campaigns/{campaign_id}/resume": _WRITE,
    "POST /v1/campaigns/{campaign_id}/cancel": _WRITE,
    "POST /v1/campaigns/{campaign_id}/retry-failed": _WRITE,
    "POST /v1/campaigns/{campaign_id}/resolve-unknown": _WRITE,
    "POST /v1/campaigns/{campaign_id}/test": _WRITE,
    "GET /v1/campaigns/{campaign_id}/events": _READ,
    "GET /v1/campaigns/{campaign_id}/timeline": _READ,
    "GET /v1/events": _READ,
    "GET /v1/events/stream": _READ,
    "GET /v1/events/settings": _READ,
    "PUT /v1/events/settings": Scope.WEBHOOKS_WRITE,
    "GET /v1/webhooks": Scope.WEBHOOKS_WRITE,
    "POST /v1/webhooks": Scope.WEBHOOKS_WRITE,
    "GET /v1/webhooks/{webhook_id}": Scope.WEBHOOKS_WRITE,
    "PATCH /v1/webhooks/{webhook_id}": Scope.WEBHOOKS_WRITE,
    "DELETE /v1/webhooks/{webhook_id}": Scope.WEBHOOKS_WRITE,
    "POST /v1/webhooks/{webhook_id}/rotate": Scope.WEBHOOKS_WRITE,
    "POST /v1/webhooks/{webhook_id}/test": Scope.WEBHOOKS_WRITE,
    "POST /v1/webhooks/{webhook_id}/replay": Scope.WEBHOOKS_WRITE,
    "GET /v1/webhooks/{webhook_id}/set-aside": Scope.WEBHOOKS_WRITE,
    "GET /v1/reports": _READ,
    "POST /v1/feedback/raw": _AUDIENCE,
    "GET /v1/feedback/ses": _AUDIENCE,
    "GET /v1/suppressions": _READ,
    "GET /v1/suppressions/export": _READ,
    "POST /v1/suppressions": _AUDIENCE,
    "DELETE /v1/suppressions": _AUDIENCE,
    "POST /v1/erase": _AUDIENCE,
    "POST /v1/domains/{domain}/check": _READ,
    "GET /v1/limits": _READ,
    "PUT /v1/limits/{scope}": _OPERATOR,
    "DELETE /v1/limits/{scope}": _OPERATOR,
    "GET /v1/projects": _OPERATOR,
    "POST /v1/projects": _OPERATOR,
    "GET /v1/projects/{project_id}": _OPERATOR,
    "PATCH /v1/projects/{project_id}": _OPERATOR,
    "POST /v1/projects/{project_id}/close": _OPERATOR,
    "GET /v1/keys": _OPERATOR,
    "POST /v1/keys": _OPERATOR,
    "POST /v1/keys/{key_id}/rotate": _OPERATOR,
    "DELETE /v1/keys/{key_id}": _OPERATOR,
    "GET /v1/domains": _READ,
    "POST /v1/domains": _OPERATOR,
    "POST /v1/domains/{name}/prove": _WRITE,
    "PATCH /v1/domains/{name}": _WRITE,
    "DELETE /v1/domains/{name}": _OPERATOR,
    "GET /v1/sessions": ANYONE,
    "DELETE /v1/sessions/{session_id}": ANYONE,
    "GET /v1/audit": _OPERATOR,
    "GET /v1/audit/export": _OPERATOR,
    "GET /v1/services": _OPERATOR,
    "GET /v1/queues": _OPERATOR,
    "GET /v1/batches": _OPERATOR,
    # The page
    "POST /sign-out": ANYONE,
    "GET /": _READ,
    "GET /campaigns": _READ,
    "GET /live/campaigns": _READ,
    "GET /campaigns/new": _WRITE,
    "POST /campaigns": _WRITE,
    "POST /campaigns/{campaign_id}/import": _WRITE,
    "GET /campaigns/{campaign_id}": _READ,
    "GET /campaigns/{campaign_id}/live": _READ,
    "GET /campaigns/{campaign_id}/failures": _READ,
    "GET /campaigns/{campaign_id}/reports": _READ,
    "GET /campaigns/{campaign_id}/recipients": _READ,
    "GET /campaigns/{campaign_id}/recipients/export": _READ,
    "GET /campaigns/{campaign_id}/message": _READ,
    "GET /campaigns/{campaign_id}/message/html": _READ,
    "POST /campaigns/{campaign_id}/send": _WRITE,
    "POST /campaigns/{campaign_id}/resume": _WRITE,
    "POST /campaigns/{campaign_id}/retry-failed": _WRITE,
    "POST /campaigns/{campaign_id}/resolve-unknown": _WRITE,
    "POST /campaigns/{campaign_id}/test": _WRITE,
    "POST /campaigns/{campaign_id}/delete": _WRITE,
    "POST /campaigns/{campaign_id}/{action}": _WRITE,
    "GET /services": _OPERATOR,
    "GET /services/live": _OPERATOR,
    "GET /access": ANYONE,
    "POST /access/end-session": ANYONE,
    "POST /access/domains": _OPERATOR,
    "POST /access/domains/remove": _OPERATOR,
    "GET /access/domains/{name}": _READ,
    "GET /access/keys": _OPERATOR,
    "POST /access/keys": _OPERATOR,
    "POST /access/keys/rotate": _OPERATOR,
    "POST /access/keys/revoke": _OPERATOR,
    "GET /access/projects": _OPERATOR,
    "POST /access/projects": _OPERATOR,
    "POST /access/projects/rename": _OPERATOR,
    "POST /access/projects/retention": _OPERATOR,
    "POST /access/projects/close": _OPERATOR,
    "GET /access/audit": _OPERATOR,
    "GET /suppressions": _READ,
    "POST /suppressions": _AUDIENCE,
    "POST /suppressions/erase": _AUDIENCE,
    "POST /suppressions/remove": _AUDIENCE,
    "POST /suppressions/remove-matching": _AUDIENCE,
    "GET /webhooks": Scope.WEBHOOKS_WRITE,
    "POST /webhooks": Scope.WEBHOOKS_WRITE,
    "GET /webhooks/{webhook_id}": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/rotate": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/test": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/pause": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/resume": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/replay": Scope.WEBHOOKS_WRITE,
    "POST /webhooks/{webhook_id}/delete": Scope.WEBHOOKS_WRITE,
}


class MissingScopeError(HttpError):
    status = 403
    kind = "missing-scope"
    title = "The key may not do this"

    def __init__(self, needed: Scope, held: Iterable[Scope]) -> None:
        super().__init__(
            f"This needs the scope {needed}; the key has {', '.join(sorted(held)) or 'none'}. An operator makes a key"
            f" that has it: `vashsender key create NAME --scope {needed}`.",
            headers={"WWW-Authenticate": f'Bearer realm="vashsender", error="insufficient_scope", scope="{needed}"'},
            scope=needed.value,
        )


def scope_of(method: str, path: str) -> Scope | None:
    """The scope of a route. Raises LookupError if it has no place above."""
    try:
        return SCOPES[f"{method} {path}"]
    except KeyError:
        raise LookupError(f"{method} {path} needs a place in services.api.web.scopes.SCOPES") from None


def require(needed: Scope | None, held: frozenset[Scope]) -> None:
    """Raises MissingScopeError (RFC 6750, 3.1) if the key does not have the scope."""
    if needed is not None and needed not in held:
        raise MissingScopeError(needed, held)
