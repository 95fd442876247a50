"""Files that the API and the page send as streams."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

from services.api.usecases import recipient_export
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.export_lines import MEDIA, Format, gzipped
from services.api.usecases.recipients import Wanted
from shared.ledger.database import Ledger


def recipients_file(
    ledger: Ledger, campaign: CampaignRef, wanted: Wanted, file_format: Format, *, packed: bool = False
) -> StreamingResponse:
    """A campaign's recipients as a download. The campaign must exist."""
    lines = recipient_export.lines(ledger, campaign, wanted, file_format)
    what = wanted.status or wanted.reported or "recipients"
    return file_of(lines, f"{campaign.id}-{what}", file_format, packed=packed)


def file_of(lines: AsyncIterator[bytes], what: str, file_format: Format, *, packed: bool = False) -> StreamingResponse:
    """Lines as a download that is named after what it holds."""
    name = f"{what}.{file_format}{'.gz' if packed else ''}"
    return StreamingResponse(
        gzipped(lines) if packed else lines,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
        media_type="application/gzip" if packed else MEDIA[file_format],
    )
