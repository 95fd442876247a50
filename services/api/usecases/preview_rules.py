"""What may make an email look wrong or like spam, as far as that can be seen without a network: a table of rules."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from services.api.usecases.read_email import Email, Link
from shared.providers import PROVIDERS

CLIPPED_BYTES = 102 * 1024
"""Gmail shows this much of the HTML, and a link to the rest."""

LARGE_ATTACHMENTS_BYTES = 5_000_000
FEW_WORDS = 20

_MAILBOX_DOMAINS = frozenset(domain for provider in PROVIDERS for domain in provider.domains)
_SHORTENERS = frozenset(
    {
        *("bit.ly", "tinyurl.com", "t.co", "goo.gl", "is.gd", "ow.ly", "buff.ly", "cutt.ly", "rebrand.ly", "rb.gy"),
        *("shorturl.at", "t.ly", "tiny.cc", "v.gd", "bl.ink", "clck.ru", "vk.cc", "u.to"),
    }
)
_RISKY_FILES = re.compile(
    r"\.(?:exe|scr|com|bat|cmd|ps1|vbs?|jse?|jar|msi|lnk|iso|img|hta|apk|docm|xlsm|pptm)$", re.IGNORECASE
)
_PRETENDS = re.compile(r"(?:re|fwd?|aw|wg|tr|sv|rv|ha|отв)\s*(?:\[\d+\])?:", re.IGNORECASE)
_SHOUTS = re.compile(r"[!?]{2,}|[$€£]{2,}|!.*!")
# Text that a person takes for an address: with a scheme, `www.`, or a common ending.
_SHOWN_ADDRESS = re.compile(
    r"(?:https?://|www\.)([\w.-]+\.\w+)(?:[:/?#]\S*)?|([\w.-]+\.(?:com|org|net|info|eu|de|ru|uk|fr|es|it|nl|pl))(?:/\S*)?",
    re.IGNORECASE,
)
_USABLE = re.compile(r"(?:https?|mailto|tel|sms|cid|geo):|#", re.IGNORECASE)


def warnings_about(email: Email) -> Iterator[tuple[str, str]]:
    """The name of each rule that the email breaks, and a sentence about it."""
    for name, rule in RULES.items():
        if detail := rule(email):
            yield name, detail


def _subject_in_capitals(email: Email) -> str:
    letters = [one for one in email.subject if one.isalpha()]
    if len(letters) < 8 or not all(one.isupper() for one in letters):
        return ""
    return "The subject has capitals only, which looks like spam."


def _subject_shouts(email: Email) -> str:
    if not _SHOUTS.search(email.subject):
        return ""
    return "The subject has several exclamation or question marks, or signs of money, which looks like spam."


def _subject_pretends(email: Email) -> str:
    if not _PRETENDS.match(email.subject):
        return ""
    return "The subject begins like a reply or a forwarded email, which this is not."


def _from_mailbox_provider(email: Email) -> str:
    domain = email.from_email.rpartition("@")[2]
    if domain not in _MAILBOX_DOMAINS:
        return ""
    return f"From is an address at {domain}, whose DMARC policy refuses what others send; use a domain of your own."


def _no_unsubscribe_link(email: Email) -> str:
    url = email.unsubscribe_url
    if any(url in link.url for link in email.links) or (email.page is None and url in email.text):
        return ""
    return "The body has no link to unsubscribe; write {{ unsubscribe_url }} into one."


def _empty_text(email: Email) -> str:
    return "" if email.text.strip() else "The text part is empty; people who do not read HTML see nothing."


def _only_images(email: Email) -> str:
    page = email.page
    if page is None or not page.images or page.words >= FEW_WORDS:
        return ""
    words = f"{page.words} word{'' if page.words == 1 else 's'}"
    return f"The HTML is images with {words}; filters distrust it, and many people see no images."


def _clipped(email: Email) -> str:
    if email.html_bytes <= CLIPPED_BYTES:
        return ""
    return (
        f"The HTML has {email.html_bytes // 1024} KB; Gmail shows the first {CLIPPED_BYTES // 1024} KB only, "
        "perhaps without the link to unsubscribe."
    )


def _misleading_link(email: Email) -> str:
    return _some(
        (f"{link.text[:60]} leads to {_host(link.url)}" for link in email.links if _misleads(link)),
        "A link shows one address and leads to another, as phishing does",
    )


def _shortened_link(email: Email) -> str:
    hosts = {_host(link.url) for link in email.links} & _SHORTENERS
    return _some(sorted(hosts), "URL shorteners hide where a link leads, and filters block them")


def _insecure_link(email: Email) -> str:
    urls = [link.url for link in email.links if link.url != email.unsubscribe_url] + _image_sources(email)
    found = dict.fromkeys(_host(url) for url in urls if url.lower().startswith("http://"))
    return _some(found, "Links and images with http:// are not encrypted; use https://")


def _relative_link(email: Email) -> str:
    found = [link.url[:60] or "an empty one" for link in email.links if not _USABLE.match(link.url)]
    return _some(found, "A link without https:// leads nowhere in an email")


def _image_without_alt(email: Email) -> str:
    page = email.page
    found = [str(one.get("src"))[:60] for one in (page.images if page else ()) if "alt" not in one]
    return _some(found, "An image without alt is nothing to people who see no images")


def _missing_image(email: Email) -> str:
    attached = {file.content_id for file in email.attachments}
    shown = [one[4:] for one in _image_sources(email) if one.lower().startswith("cid:")]
    return _some((one for one in shown if unquote(one) not in attached), "No attachment has the content_id of an image")


def _data_image(email: Email) -> str:
    if not any(source.lower().startswith("data:") for source in _image_sources(email)):
        return ""
    return "Gmail and Outlook do not show images with data: addresses; attach them with a content_id."


def _active_content(email: Email) -> str:
    page = email.page
    found = sorted(page.tags - {"link"}) if page else ()
    return _some((f"<{tag}>" for tag in found), "Mail programs remove some tags")


def _style_sheet(email: Email) -> str:
    if email.page is None or "link" not in email.page.tags:
        return ""
    return "Mail programs load no style sheets; write the styles into the HTML."


def _large_attachments(email: Email) -> str:
    size = sum(len(file.content) for file in email.attachments)
    if size <= LARGE_ATTACHMENTS_BYTES:
        return ""
    return f"The attachments have {size / 1e6:.1f} MB, which many mailboxes refuse; link to them instead."


def _risky_attachment(email: Email) -> str:
    found = [file.filename for file in email.attachments if _RISKY_FILES.search(file.filename)]
    return _some(found, "Mailboxes refuse attachments that can carry programs")


RULES: Mapping[str, Callable[[Email], str]] = {
    "subject-in-capitals": _subject_in_capitals,
    "subject-shouts": _subject_shouts,
    "subject-pretends": _subject_pretends,
    "from-mailbox-provider": _from_mailbox_provider,
    "no-unsubscribe-link": _no_unsubscribe_link,
    "empty-text": _empty_text,
    "only-images": _only_images,
    "clipped": _clipped,
    "misleading-link": _misleading_link,
    "shortened-link": _shortened_link,
    "insecure-link": _insecure_link,
    "relative-link": _relative_link,
    "image-without-alt": _image_without_alt,
    "missing-image": _missing_image,
    "data-image": _data_image,
    "active-content": _active_content,
    "style-sheet": _style_sheet,
    "large-attachments": _large_attachments,
    "risky-attachment": _risky_attachment,
}


def _some(found: Iterable[str], what: str) -> str:
    """A sentence with the first three of what was found; empty if nothing was."""
    listed = list(found)
    if not listed:
        return ""
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{what}: {', '.join(listed[:3])}{more}."


def _image_sources(email: Email) -> list[str]:
    return [(one.get("src") or "").strip() for one in (email.page.images if email.page else ())]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _misleads(link: Link) -> bool:
    shown = _SHOWN_ADDRESS.fullmatch(link.text)
    leads_to = _host(link.url).removeprefix("www.")
    if shown is None or not leads_to:
        return False
    says = (shown[1] or shown[2]).lower().removeprefix("www.")
    return leads_to != says and not leads_to.endswith(f".{says}") and not says.endswith(f".{leads_to}")
