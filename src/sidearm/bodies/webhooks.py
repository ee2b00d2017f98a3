"""``@verify_webhook``: a view that only its sender reaches, and each delivery once.

That a delivery has acted is two rows of the task, in the table of spent tokens: one for its id,
one for its id and content. So who sends the same again is told that all is well, who sends
something else under the same id is not, and after a rollback neither row is there.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import msgspec
from flask import Flask, Response, current_app, make_response, request

from ..exceptions import SettingError
from ..spent import ANOTHER, SAME, Spending, SpentTokens
from ..tasks.state import state_of
from .exceptions import BadDelivery, ChangedDelivery, MalformedDelivery
from .raw import marks, raw_body
from .schemes import Delivery
from .sources import KEY, Source

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("sidearm.bodies")

_SOURCE = "_sidearm_webhook_source"


def verify_webhook(
    source: str, *, max_content_length: int = 1 << 20, once: bool | Any = True
) -> Callable[[F], F]:
    """Let only signed deliveries of one source reach a view, each once; a decorator.

    The view gets the :class:`~sidearm.Delivery` as its argument ``delivery``. A delivery
    that is not signed, too old or malformed is answered with 403 and reaches nothing. One that has
    acted before is answered with 200, and the view is not called; with 409 if its content is
    another one. That it acted commits with the view's task: if that rolls back, the sender may
    send it again. Of several at the same time one acts, and the others wait for its outcome.

    The body is taken as it came, as by :func:`raw_body`. Its place is below ``@app.route()``.

    Args:
        source: Whose deliveries: a name in ``SIDEARM_WEBHOOKS``.
        max_content_length: The longest body, in bytes; all of it is in memory.
        once: Where it is kept that a delivery has acted: in the application's only database; if
            there are several, give the function that ``arm.use`` or ``arm.resource`` returned for
            one, or the Flask-SQLAlchemy object. ``False`` keeps nothing, and lets repeats in.

    Returns:
        The decorator.

    Raises:
        SettingError: When the view is added to an application whose settings lack the source.
        BadDelivery: From the view: it is not signed, or not now (403).
        ChangedDelivery: From the view: its id is known with another content (409).
        MalformedDelivery: From the view: it is signed, and has no id (400).
    """
    if not isinstance(source, str) or not source:  # type: ignore[redundant-expr]
        raise TypeError(
            f"@verify_webhook was given {source!r}. Give the name of a source in {KEY}, such as"
            " @verify_webhook('payments')."
        )

    def decorate(view: F) -> F:
        receiver = _Receiver(view, source, once)

        @functools.wraps(view)
        def received(*args: Any, **kwargs: Any) -> Any:
            return receiver.receive(args, kwargs)

        setattr(received, _SOURCE, source)
        return raw_body(max_content_length=max_content_length)(cast("F", received))

    return decorate


def require_source(app: Flask, name: str) -> Source:
    """A source of an application.

    Args:
        app: The application.
        name: The source's.

    Raises:
        SettingError: The settings lack it.
    """
    sources: dict[str, Source] = state_of(app).webhooks
    if name not in sources:
        known = f"It names {', '.join(map(repr, sources))}." if sources else "It names none."
        raise SettingError(
            f"{KEY}[{name!r}]",
            None,
            f"{known} Say how deliveries of {name!r} are signed, such as {{{name!r}: {{'scheme':"
            " 'standard', 'secrets': ['whsec_...']}}.",
        )
    return sources[name]


def check_view(app: Flask, view: Any) -> None:
    """Refuse a view whose source the settings lack.

    Args:
        app: The application to which it is added.
        view: The view function.

    Raises:
        SettingError: They do.
    """
    for _, source in marks(view, _SOURCE):
        require_source(app, source)


class _Receiver:
    """What stands before a view."""

    def __init__(self, view: Callable[..., Any], source: str, once: Any) -> None:
        self._view = view
        self._source = source
        self._once = once is not False
        self._resource = None if isinstance(once, bool) else once

    def receive(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Verify the request's delivery, and let it act if it has not."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
        source = require_source(app, self._source)
        try:
            delivery = source.verify(request.headers, request.get_data())
            row = self._add_row(app, source, delivery) if self._once else None
        except (BadDelivery, MalformedDelivery) as error:
            logger.info("%s", error)
            raise
        except ChangedDelivery as error:
            logger.warning("%s", error)
            raise
        if row is SAME:
            logger.info("A delivery of %r was received before: %r.", source.name, delivery.id)
            return Response("This delivery was received before.\n", mimetype="text/plain")
        result = app.ensure_sync(self._view)(*args, delivery=delivery, **kwargs)
        if not isinstance(row, Spending):
            return result
        response = make_response(result)
        if response.status_code < 400:
            row.require_committed()
        return response

    def _add_row(self, app: Flask, source: Source, delivery: Delivery) -> Spending | str:
        content = source.scheme.digest(delivery.body)
        row = self._ledger(app).add_with(
            _row_id(source.name, delivery.id),
            _row_id(source.name, delivery.id, content),
            datetime.now(UTC) + timedelta(seconds=source.keep),
        )
        if row is ANOTHER:
            raise ChangedDelivery(source.name, delivery.id)
        return row

    def _ledger(self, app: Flask) -> SpentTokens:
        state = state_of(app)
        ledgers: dict[Any, SpentTokens] = state.delivery_ledgers
        ledger = ledgers.get(self)
        if ledger is None:
            ledger = ledgers[self] = SpentTokens(
                self._source,
                self._resource,
                state.arm.resources,
                what="Deliveries of",
                how=f"@verify_webhook({self._source!r}, once=get_session)",
            )
        return ledger


def _row_id(*parts: object) -> str:
    """An identifier as long as a token's, which nobody can choose."""
    return hashlib.sha256(msgspec.msgpack.encode(("webhook", *parts))).hexdigest()[:18]
