"""Every exception of Sidearm, with its facts as attributes."""

from __future__ import annotations

import re
from typing import Any


class SidearmError(Exception):
    """The base of every error that Sidearm raises on its own account."""


class SettingError(SidearmError, ValueError):
    """A ``SIDEARM_*`` setting is wrong.

    Attributes:
        key: The setting's name.
        value: The value at fault.
    """

    def __init__(self, key: str, value: object, advice: str) -> None:
        self.key = key
        self.value = value
        super().__init__(f"{key} is {value!r}. {advice}")


class OutsideTask(SidearmError, RuntimeError):
    """Something was used that needs a task, and there is none.

    Attributes:
        what: The call that was made, such as ``publish('orders')``.
    """

    def __init__(self, what: str, advice: str | None = None) -> None:
        self.what = what
        super().__init__(
            f"Working outside of a task.\n\n{what} belongs to a task: a request, a CLI command, a"
            " pushed application context or a 'with arm.task(\"name\"):' block, and none is"
            f" running here. {advice or 'Use one of these.'}"
        )


class TaskSettled(SidearmError, RuntimeError):
    """Something was asked of a task whose outcome is already decided.

    Attributes:
        what: The call that was made.
        task: The name of the task.
    """

    def __init__(self, what: str, task: str, advice: str) -> None:
        self.what = what
        self.task = task
        super().__init__(f"{what} came too late: the task {task!r} has settled. {advice}")


class NoSavepoint(SidearmError, TypeError):
    """A savepoint was wanted of something that has none.

    Attributes:
        resource: The resource's name.
    """

    def __init__(self, resource: str, value: object) -> None:
        self.resource = resource
        super().__init__(
            f"The resource {resource} gave {value!r}, of which no savepoint is known. Savepoints"
            " work with SQLAlchemy, sqlite3 and DB-API connections; claim this one outside of the"
            " block's task, in 'with arm.task(\"name\"):'."
        )


class TransactionAborted(SidearmError, RuntimeError):
    """A task is to commit a transaction in which a statement has failed, and the database refuses.

    PostgreSQL answers COMMIT with ROLLBACK then, which drivers do not tell; SQLite has rolled back
    already.

    Attributes:
        resource: The resource's name.
    """

    def __init__(self, resource: str) -> None:
        self.resource = resource
        super().__init__(
            f"The transaction of {resource} cannot be committed: a statement in it failed, and the"
            " work before it is lost with it. Let the exception leave the view, or put what may"
            " fail into 'with current_task.savepoint():', and catch the exception outside of it."
        )


class TaskDoomed(SidearmError, RuntimeError):
    """Work was to be committed by hand in a task that is to fail; it is not committed.

    Attributes:
        resource: The resource's name.
        task: The name of the task.
        reason: What ``current_task.doom()`` was told.
    """

    def __init__(self, resource: str, task: str, reason: str) -> None:
        self.resource = resource
        self.task = task
        self.reason = reason
        super().__init__(
            f"The transaction of {resource} cannot be committed: the task {task!r} is to fail"
            f" ({reason}). Commit before current_task.doom(), or do in 'with arm.task(\"name\"):'"
            " what is to stay."
        )


class NotWhileWaiting(SidearmError, RuntimeError):
    """A Redis command has no true answer, since something waits for the commit.

    Attributes:
        command: The command that was asked.
    """

    def __init__(self, command: str, reason: str) -> None:
        self.command = command
        super().__init__(
            f"{command} has no answer yet: {reason}. Do without the answer, or ask the server at"
            " once, past what waits: client.now has the same methods."
        )


class InvalidField(SidearmError, ValueError):
    """An event's field cannot be written as ``text/event-stream`` (HTML 9.2).

    Attributes:
        field: ``"data"``, ``"event"``, ``"id"`` or ``"retry"``.
        value: The value at fault.
    """

    def __init__(self, field: str, value: object, advice: str) -> None:
        self.field = field
        self.value = value
        super().__init__(f"The event's {field} is {shorten(value)}. {advice}")


class FieldTypeError(SidearmError, TypeError):
    """An event's field was given a value of a type that it cannot have.

    Attributes:
        field: ``"data"``, ``"event"``, ``"id"`` or ``"retry"``.
        value: The value at fault.
    """

    def __init__(self, field: str, value: object, advice: str) -> None:
        self.field = field
        self.value = value
        super().__init__(
            f"The event's {field} is of type {type(value).__qualname__}: {shorten(value)}. {advice}"
        )


class InvalidChannel(SidearmError, ValueError):
    """A channel's name is not a non-empty string of printable characters up to 200 bytes.

    Attributes:
        channel: The value at fault.
    """

    def __init__(self, channel: object) -> None:
        self.channel = channel
        super().__init__(
            f"The channel is {shorten(channel)}. Give a non-empty string of printable characters,"
            " at most 200 bytes of UTF-8, such as 'orders' or 'user:7'."
        )


class EventTooLarge(SidearmError, ValueError):
    """An event is larger than ``SIDEARM_MAX_EVENT_SIZE``.

    Attributes:
        channel: The channel that it was for.
        size: Its size in bytes.
        limit: The limit in bytes.
    """

    def __init__(self, channel: str, size: int, limit: int) -> None:
        self.channel = channel
        self.size = size
        self.limit = limit
        super().__init__(
            f"The event for channel {channel!r} has {size} bytes; SIDEARM_MAX_EVENT_SIZE allows"
            f" {limit}. Publish a reference to the data, or raise the setting."
        )


class NoRepresentation(SidearmError, TypeError):
    """A mapped class was about to leave, and nobody said in which form.

    Attributes:
        mapped: The mapped class.
        holder: The pydantic class around it, if a serializer of that would lay it open.
    """

    def __init__(self, mapped: type, holder: type | None = None) -> None:
        self.mapped = mapped
        self.holder = holder
        what = f"{mapped.__module__}.{mapped.__qualname__} is a mapped class"
        if holder is not None:
            what += f" inside {holder.__qualname__}, where only pydantic could write it"
        name = (holder or mapped).__name__
        super().__init__(
            f"{what}. Sidearm never converts one by its columns, for one of them may hold a secret."
            f" Say what may leave: register '@arm.represent({name})', or give {name} a to_json()"
            " method."
        )


class UnsafeRedirect(SidearmError, ValueError):
    """A redirect would leave the application's origin for one that is not allowed.

    Attributes:
        header: The header that redirects, such as ``Location``.
        target: Where to, as the header says it.
        origin: The application's own origin, or ``None`` if it is not known.
    """

    def __init__(self, header: str, target: str, origin: str | None, where: str) -> None:
        self.header = header
        self.target = target
        self.origin = origin
        # What a query carries (a code, a token), or a user's password, is no log's business.
        told = target.partition("?")[0].partition("#")[0]
        told = shorten(re.sub(r"//[^/\\]*@", "//...@", told), 200)
        super().__init__(
            f"{where} redirects by {header} to {told}, which a browser may follow away from"
            f" {origin or 'this application'}. Give redirect() a target for which is_safe_url() is"
            " true, or use redirect_back(). Name a host that is meant in SIDEARM_REDIRECT_HOSTS."
        )


class RedirectLoop(SidearmError, RuntimeError):
    """The only place to go back to is the page that asks.

    Attributes:
        target: The fallback that was given.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(
            f"redirect_back({shorten(target)}) was called by the very page that this leads to, and"
            " there is nothing else to go back to: a browser would come round and round. Give"
            " another page as the fallback."
        )


class HubError(SidearmError, RuntimeError):
    """The hub cannot start, or cannot be talked to.

    Attributes:
        socket_path: The Unix socket in question, if it is about one.
    """

    def __init__(self, message: str, socket_path: str | None = None) -> None:
        self.socket_path = socket_path
        super().__init__(message)


class BrokerError(SidearmError, RuntimeError):
    """The broker is away, or cannot be used; what waits for it is sent when it is back."""


class ProtocolError(SidearmError):
    """A peer on the hub's socket said something that is no message of this version."""


class StartError(SidearmError, RuntimeError):
    """``flask sidearm up`` cannot start; the message is one line that names value and cure."""


class ExportError(SidearmError, RuntimeError):
    """A file cannot be exported, or does not cover the application; the message says what to do."""


class DoctorError(SidearmError, RuntimeError):
    """A deployment cannot be examined; the message says why, and what to do."""


class SecretKeyError(SidearmError, RuntimeError):
    """A key of the application is missing, or too short to sign with.

    Attributes:
        key: The name of the setting; never its value.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(f"{key} {problem}")


class NoSpentTokens(SidearmError, RuntimeError):
    """There is no one place to keep which tokens, or webhooks, have acted.

    Attributes:
        purpose: The kind of token, or the webhooks' source.
        resources: The names of those between which Sidearm does not choose.
    """

    def __init__(
        self, purpose: str, resources: list[str], what: str = "Tokens for", how: str | None = None
    ) -> None:
        self.purpose = purpose
        self.resources = resources
        found = f"there are several ({', '.join(resources)})" if resources else "there is none"
        how = how or f"arm.token({purpose!r}, ..., single_use=get_session)"
        super().__init__(
            f"{what} {purpose!r} are for one use, and that they were used is kept in a resource"
            f" of the application; {found}. Declare one with arm.use(...), and name it if there"
            f" are more: {how}."
        )


class BodyNotParsed(SidearmError, RuntimeError):
    """Something wants the parsed body of a request to a view with ``@raw_body``.

    Attributes:
        what: What was asked for, such as ``request.form``.
        endpoint: The view's.
    """

    def __init__(
        self, what: str, endpoint: str, protected: str | None = None, happened: str | None = None
    ) -> None:
        self.what = what
        self.endpoint = endpoint
        advice = (
            "Read request.stream in pieces, or all of it with request.get_data(); or take the"
            " decorator off."
        )
        if protected is not None:
            advice += (
                " If it is Flask-WTF's CSRFProtect that asks, exempt the view, whose senders have"
                f" no token: @csrf.exempt above the decorator, or csrf.exempt({protected!r})."
            )
        problem = happened or "was asked for, and @raw_body leaves bodies as they come"
        super().__init__(f"{what} {problem} (endpoint {endpoint!r}). {advice}")


class TokenRuleError(SidearmError, ValueError):
    """A URL rule would let a token be forgotten, or be used more than once.

    Attributes:
        rule: The rule.
    """

    def __init__(self, rule: str, advice: str) -> None:
        self.rule = rule
        super().__init__(f"The URL rule {rule!r} cannot stand. {advice}")


class UnknownOrigin(SidearmError, RuntimeError):
    """A link to this site was asked for, and nobody has said what the site is called.

    Attributes:
        what: The call that was made.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} makes a link with a host, and which one is this site's is set nowhere. The"
            " request's own Host header is not asked: whoever sends it chooses it, and the link"
            " goes to somebody else. Set SIDEARM_ORIGIN, such as 'https://shop.example', or"
            " Flask's SERVER_NAME or TRUSTED_HOSTS."
        )


class NotAStream(SidearmError, RuntimeError):
    """A test's SSE client was answered with something that a browser would not read as a stream.

    Attributes:
        status: The response's status code.
        headers: The response's headers.
        body: The first bytes of the response's body.
    """

    def __init__(self, url: str, reason: str, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        super().__init__(
            f"{url} answered with {reason}, and a browser's EventSource would close for good. The"
            f" body starts with {shorten(body, 400)}."
        )


class StreamEnded(SidearmError, EOFError):
    """A stream ended while a test waited for an event.

    Attributes:
        events: The events that came before the end, of those that were waited for.
    """

    def __init__(self, url: str, events: list[Any]) -> None:
        self.events = events
        super().__init__(
            f"The stream {url} ended after {len(events)} of the events that were waited for."
            " reconnect() goes on from the last id, as a browser does."
        )


class ServerDied(SidearmError, RuntimeError):
    """A test's server ended before it was ready, or while something was waited for.

    Attributes:
        status: Its exit status; negative for a signal.
        log: What it had written.
    """

    def __init__(self, command: str, status: int, log: str) -> None:
        self.status = status
        self.log = log
        super().__init__(f"{command} ended with status {status}. Its log:\n{log or '(empty)'}")


class InjectedFault(SidearmError):
    """What ``sidearm_faults`` lets a step raise; where a driver would, of the driver's class too.

    Attributes:
        step: The step that failed, such as ``"step 4, the commit of db.session"``.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(f"An injected fault at {step}.")


class InjectedExit(BaseException):
    """What ``sidearm_faults`` raises as a worker's time limit or Ctrl-C would.

    Attributes:
        step: The step that failed.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(f"An injected BaseException at {step}.")


class FaultsFound(SidearmError, AssertionError):
    """What ``sidearm_faults`` found wrong: some run did not keep what is promised.

    Attributes:
        report: The :class:`~sidearm.testing.FaultReport` of all runs.
    """

    def __init__(self, message: str, report: Any) -> None:
        self.report = report
        super().__init__(message)


def shorten(value: object, limit: int = 80) -> str:
    """The value's repr, cut so that a message stays one line."""
    text: Any = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
