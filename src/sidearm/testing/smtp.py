"""A real SMTP server for tests, in a thread of the test process."""

from __future__ import annotations

import email
import email.policy
import threading
from typing import TYPE_CHECKING, Any

from .servers import HOST, WAIT_TIMEOUT, free_port

if TYPE_CHECKING:
    from email.message import EmailMessage
    from types import TracebackType
    from typing import Self


class SMTPServer:
    """Accepts mail on a free loopback port (by aiosmtpd) and keeps it.

    >>> with SMTPServer() as smtp:  # doctest: +SKIP
    ...     send_success_mail()
    ...     assert "Thank you" in smtp.wait_for_message().get_content()

    Attributes:
        host: Its address.
        port: Its port.
        messages: The messages that came, in order, with ``X-Mail-From`` and ``X-Rcpt-To`` as the
            envelope said.
    """

    host = HOST

    def __init__(self) -> None:
        """Describe the server; it starts when the block is entered."""
        self.port = free_port()
        self.messages: list[EmailMessage] = []
        self._arrived = threading.Condition()

    def wait_for_message(self, number: int = 1, timeout: float = WAIT_TIMEOUT) -> EmailMessage:
        """Wait for the ``number``-th message, counted from 1.

        Raises:
            TimeoutError: It did not come in time.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.messages) >= number, timeout):
                raise TimeoutError(
                    f"Waited {timeout:g} s for message {number}; {len(self.messages)} came."
                )
            return self.messages[number - 1]

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:  # noqa: N802
        """Keep a message; the name is aiosmtpd's."""
        content = envelope.content.replace(b"\r\n", b"\n")  # as it was before SMTP
        message = email.message_from_bytes(content, policy=email.policy.default)
        message["X-Mail-From"] = envelope.mail_from
        message["X-Rcpt-To"] = ", ".join(envelope.rcpt_tos)
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()
        return "250 OK"

    def __enter__(self) -> Self:
        """Start listening."""
        from aiosmtpd.controller import Controller  # an optional package

        self._controller = Controller(self, hostname=self.host, port=self.port)
        self._controller.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, and end the thread."""
        self._controller.stop()
