"""Why a stream was refused; it is also the HTTP answer that fits.

It stands here and not with the others because it is Werkzeug's too, and the hub, which reads those,
knows no framework.
"""

from __future__ import annotations

from werkzeug.exceptions import Forbidden

from ..exceptions import SidearmError, shorten


class ForeignReader(SidearmError, Forbidden):
    """A page of another origin asks for a stream: 403.

    Attributes:
        reader: The origin of the page (``Origin``), if the browser says it.
        site: How far that is from here (``Sec-Fetch-Site``), if the browser says it.
        origin: The application's own origin, or ``None`` if it is not known.
    """

    def __init__(self, reader: str | None, site: str | None, origin: str | None) -> None:
        self.reader = reader
        self.site = site
        self.origin = origin
        who = "a page of another site" if reader is None else f"a page of {shorten(reader, 200)}"
        told = "" if site is None else f" (Sec-Fetch-Site: {shorten(site)})"
        super().__init__(
            f"This stream was asked for by {who}{told}, and belongs to"
            f" {origin or 'an application that does not know its own origin'}. A page of another"
            " origin may read streams if SIDEARM_STREAM_ORIGINS lists its origin, such as"
            " ['https://app.example']. If the page is the application's own, the application sees"
            " another scheme or host than browsers do: set SIDEARM_ORIGIN, or use ProxyFix."
        )
