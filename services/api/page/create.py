"""A new campaign in the browser: the draft, and its recipients from a file."""

from collections.abc import AsyncIterator, Mapping

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile

from services.api.page import campaign, render
from services.api.page.campaign import NOTICES, Told
from services.api.page.forms import file, text, validated
from services.api.page.route import FormDep, PageRoute, UploadRoute, see_other
from services.api.shapes.campaigns import CampaignIn
from services.api.usecases import campaigns
from services.api.usecases import import_recipients as importing
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import RefusedError
from services.api.usecases.import_recipients import Upload
from services.api.web.context import CampaignDep, Project, ProjectDep
from services.api.web.problems import HttpError, problem_of

FIELDS = (
    *("name", "from_email", "from_name", "reply_to", "reply_to_name"),
    *("subject", "html", "text", "emails_per_second"),
)
READ_BYTES = 256 * 1024
_FIELD_OF = {
    "#/from/email": "from_email",
    "#/from/name": "from_name",
    "#/reply_to/email": "reply_to",
    "#/reply_to/name": "reply_to_name",
}

router = APIRouter(include_in_schema=False, route_class=PageRoute)
uploads = APIRouter(include_in_schema=False, route_class=UploadRoute)


class NoFileError(HttpError):
    status = 422
    kind = "no-file"
    title = "No file was chosen"


@router.get("/campaigns/new")
async def ask(request: Request) -> Response:
    return _form(request, dict.fromkeys(FIELDS, ""), None)


@uploads.post("/campaigns")
async def create(request: Request, form: FormDep, project: ProjectDep) -> Response:
    given = {name: text(form, name) for name in FIELDS}
    try:
        draft = await campaigns.create(project.api.ledger, project.tenant, _body(given), project.api.settings.groups)
    except RefusedError as refusal:
        return _form(request, given, refusal)
    warned = bool(draft.warnings)
    if file(form, "recipients") is None:
        return see_other(f"/campaigns/{draft.id}?told={'warned' if warned else 'created'}")
    return await _import(request, project, project.campaign(draft.id), form, warned=warned)


@uploads.post("/campaigns/{campaign_id}/import")
async def import_recipients(request: Request, campaign: CampaignDep, form: FormDep, project: ProjectDep) -> Response:
    return await _import(request, project, campaign, form)


async def _import(
    request: Request, project: Project, to: CampaignRef, form: FormData, *, warned: bool = False
) -> Response:
    """Imports the file of the form. `warned`: the campaign was made just now, with warnings about its message."""
    try:
        upload = file(form, "recipients")
        if upload is None:
            raise NoFileError("Choose a file of recipients, then import it.")
        await importing.import_recipients(project.api.imports, to, _upload(upload, form))
    except RefusedError as refusal:
        notice = NOTICES["warned"] if warned else ""
        return await campaign.shown(request, project, to, Told(notice, refusal=refusal))
    return see_other(f"/campaigns/{to.id}?told={'imported-warned' if warned else 'imported'}")


def _upload(upload: UploadFile, form: FormData) -> Upload:
    given = {name: text(form, name).strip() for name in ("email_column", "charset", "columns", "types")}
    columns = [given["columns"]] if given["columns"] else []
    types = [f"{name}:boolean" for name in given["types"].split(",") if name.strip()]
    options = importing.read_as(given["email_column"] or None, columns, types)
    return Upload(_format(upload), _blocks(upload), given["charset"] or None, options)


def _format(upload: UploadFile) -> str | None:
    name = upload.filename or ""
    return None if name.lower().endswith(".zip") else importing.format_of(name) or "csv"


async def _blocks(upload: UploadFile) -> AsyncIterator[bytes]:
    while block := await upload.read(READ_BYTES):
        yield block


def _body(given: Mapping[str, str]) -> CampaignIn:
    return validated(
        CampaignIn,
        {
            "name": given["name"],
            "from": {"email": given["from_email"], "name": given["from_name"]},
            "reply_to": _reply_to(given),
            "subject": given["subject"],
            "html": given["html"] if given["html"].strip() else None,
            "text": given["text"] if given["text"].strip() else None,
            "emails_per_second": given["emails_per_second"] or None,
        },
    )


def _reply_to(given: Mapping[str, str]) -> dict[str, str] | None:
    email, name = given["reply_to"].strip(), given["reply_to_name"].strip()
    return {"email": email, "name": name} if email or name else None


def _form(request: Request, given: Mapping[str, str], refusal: RefusedError | None) -> Response:
    """The form with what was typed, and what is wrong with each field."""
    problem = problem_of(refusal) if refusal else None
    errors: dict[str, str] = {}
    for one in refusal.errors if refusal else ():
        pointer = one.get("pointer", "")
        name = _FIELD_OF.get(pointer, pointer.removeprefix("#/"))
        if name in FIELDS:
            place = f"Line {one['line']}, column {one['column']}: " if one.get("line") else ""
            errors.setdefault(name, place + one["detail"])
    return render.page(
        request,
        "new.html",
        status_code=problem.status if problem else 200,
        section="new",
        given=given,
        errors=errors,
        problem=problem.document if problem else None,
    )
