"""Mail: by SMTP where a server is configured, otherwise into the mailbox that a page shows."""

from __future__ import annotations

import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

from flask import current_app, render_template

from sidearm import after_commit

from .database import db
from .models import Mail

TIMEOUT = 10.0  # seconds for each step of the conversation with the server
PORTS = {"smtp": 25, "smtps": 465}


@dataclass(frozen=True)
class SmtpServer:
    """Where mails are handed in."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def send(self, message: EmailMessage) -> None:
        """Hand in one message.

        Raises:
            OSError: The server is away, or refuses (:class:`smtplib.SMTPException` is one too).
        """
        with self._connect() as server:
            if self.user is not None:
                server.login(self.user, self.password or "")
            server.send_message(message)

    def _connect(self) -> smtplib.SMTP:
        if self.tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT)


def parse_smtp_url(url: str | None) -> SmtpServer | None:
    """Read ``SHOP_SMTP_URL``.

    Raises:
        ValueError: It is no such URL; the message does not repeat a password.
    """
    if not url:
        return None
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.path.strip("/"):
        raise ValueError(
            f"SHOP_SMTP_URL begins with {shown!r}. Give smtp://host:port or"
            " smtps://user:password@host:port."
        )
    if parts.username is not None and parts.scheme == "smtp":
        raise ValueError(
            f"SHOP_SMTP_URL would send a password to {shown!r} in clear text. Use smtps://."
        )
    return SmtpServer(
        parts.hostname,
        port or PORTS[parts.scheme],
        tls=parts.scheme == "smtps",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def smtp_server() -> SmtpServer | None:
    """The configured server, or ``None`` where mails go to the mailbox."""
    server: SmtpServer | None = current_app.extensions["shop_smtp"]
    return server


def send_mail(recipient: str, subject: str, body: str) -> None:
    """Send a plain text mail.

    Args:
        recipient: A bare address, as :func:`shop.forms.parse_email_address` returns it.
        subject: One line. A line break here or in an address is refused by the message itself, so
            no header can be injected.
        body: The text.

    Raises:
        ValueError: An address or the subject holds a line break.
        OSError: The SMTP server is away, or refuses.
    """
    message = EmailMessage()
    message["From"] = current_app.config["SHOP_MAIL_FROM"]
    message["To"] = recipient
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="outfitters.example")
    message.set_content(body)
    server = smtp_server()
    if server is None:
        db.session.add(Mail(recipient=recipient, subject=subject, body=body))
    else:
        server.send(message)


def mail_after_commit(recipient: str, subject: str, template: str, **values: Any) -> None:
    """Send a mail once the current work has committed. Its text is made now.

    Args:
        recipient: As for :func:`send_mail`.
        subject: As for :func:`send_mail`.
        template: Of the text.
        values: For the template.
    """
    body = render_template(template, **values)

    @after_commit
    def send() -> None:
        send_mail(recipient, subject, body)
