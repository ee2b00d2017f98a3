"""Why a webhook was refused; each is also the HTTP answer that its sender gets.

They stand here and not with the others because they are Werkzeug's too, and the hub, which reads
those, knows no framework.
"""

from __future__ import annotations

from werkzeug.exceptions import BadRequest, Conflict, Forbidden

from ..exceptions import SidearmError


class BadDelivery(SidearmError, Forbidden):
    """A delivery is not signed with a secret of its source, or not now: 403.

    The answer is the same for each reason, so that it teaches nobody to forge.

    Attributes:
        source: The source's name in ``SIDEARM_WEBHOOKS``.
        reason: Why, in a few words for the log.
    """

    description = "The signature of this delivery is missing, wrong or too old."

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__()

    def __str__(self) -> str:
        return f"A delivery of {self.source!r} was refused: {self.reason}."


class ChangedDelivery(SidearmError, Conflict):
    """A delivery has the id of an earlier one and another content: 409.

    Attributes:
        source: The source's name in ``SIDEARM_WEBHOOKS``.
        id: The id that both have.
    """

    description = "Another delivery with this id, and with another content, was received before."

    def __init__(self, source: str, id: str) -> None:
        self.source = source
        self.id = id
        super().__init__()

    def __str__(self) -> str:
        return (
            f"A delivery of {self.source!r} was refused: its id {self.id!r} is that of an earlier"
            " one with another content."
        )


class MalformedDelivery(SidearmError, BadRequest):
    """A delivery is signed, and its body is not what its source sends: 400.

    Attributes:
        source: The source's name in ``SIDEARM_WEBHOOKS``.
        reason: What is wrong with it.
    """

    description = "The body of this delivery cannot be read."

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__()

    def __str__(self) -> str:
        return f"The body of a delivery of {self.source!r} cannot be read: {self.reason}."
