"""SQLAlchemy's session, scoped sessions and Flask-SQLAlchemy; commits by hand are followed.

SQLAlchemy's events tell everything that contract T13 needs: when a session begins a root
transaction (``after_transaction_create``), how it ends (``after_commit`` and
``after_soft_rollback``, then ``after_transaction_end``), and whether it wrote
(``transient_to_pending``, ``after_flush``, and the cursor's own statements, because bulk
methods and Core statements pass by the first two).

The listeners are registered once, on classes, and find their claim in ``session.info`` and
``connection.info``: a listener for each session would cost more than the session.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ..tasks.claims import Claim, CommitMode, Resource, Transaction
from ..tasks.context import at_teardown, find_task, is_inner
from .reach import reach
from .savepoints import Nested
from .transactions import refuse_aborted_under

if TYPE_CHECKING:
    from ..tasks.task import Task

_CLAIM = "sidearm_claim"

#: Classes of sessions that some scoped session makes; each may serve several applications.
_SCOPED: weakref.WeakSet[type[Session]] = weakref.WeakSet()
_READS = frozenset(
    [
        "select",
        "show",
        "pragma",
        "explain",
        "values",
        "table",
        "describe",
        "set",
        "begin",
        "savepoint",
        "release",
        "rollback",
    ]
)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class SessionMaker(Resource):
    """A ``sessionmaker``: ``get_session = arm.use(SessionLocal)``, then ``get_session()``.

    Args:
        factory: The ``sessionmaker``; each task gets a session of its own from it.
        commit: ``"task"`` or ``"explicit"``.
    """

    def __init__(self, factory: sessionmaker[Any], commit: CommitMode = "task") -> None:
        super().__init__("session", commit)
        self._factory = factory

    def claim(self) -> Claim:
        """Make a session."""
        session = self._factory()
        return SessionClaim(self, session, session.close)

    def reach(self) -> None:
        """Raise unless every database that its sessions work with answers."""
        _reach(_engines_of(self._factory))


class EngineConnections(Resource):
    """An engine: ``get_connection = arm.use(engine)``, then ``get_connection()``.

    SQLAlchemy tells of a connection's commit before it is done, so commits by hand are not
    followed: callbacks and events follow the task.

    Args:
        engine: Each task gets a connection of its own from it.
        commit: ``"task"`` or ``"explicit"``.
    """

    def __init__(self, engine: Engine, commit: CommitMode = "task") -> None:
        super().__init__("connection", commit)
        self._engine = engine

    def claim(self) -> Claim:
        """Connect."""
        return ConnectionClaim(self, self._engine.connect())

    def reach(self) -> None:
        """Raise unless the database answers."""
        _reach([self._engine])


class ConnectionClaim(Claim):
    """A claimed connection of an engine."""

    def __init__(self, resource: Resource, connection: Connection) -> None:
        super().__init__(resource, connection, can_look=True)

    def unsaved(self) -> bool:
        return bool(self.value.in_transaction())

    def savepoint(self) -> Nested:
        return Nested(self.value)

    def commit(self) -> None:
        refuse_aborted_under(self.value, self.resource.name)
        self.value.commit()

    def rollback(self) -> None:
        self.value.rollback()

    def release(self) -> None:
        self.value.close()


class ScopedSession(Resource):
    """A ``scoped_session`` that the application uses directly, such as Flask-SQLAlchemy's.

    Its sessions are found when they begin a transaction; nobody has to call anything.

    Args:
        registry: The ``scoped_session``.
        name: Shown in records and errors.
        commit: ``"task"`` or ``"explicit"``.
        removes: Whether Sidearm removes the session with the task. Flask-SQLAlchemy does that
            itself, and may keep one for a test's fixture.
        engines: What its sessions work with, in an application context; None: what their factory
            was given.
    """

    joins: ClassVar[bool] = True

    def __init__(
        self,
        registry: scoped_session[Any],
        name: str,
        commit: CommitMode,
        *,
        removes: bool,
        engines: Callable[[], Iterable[Engine]] | None = None,
    ) -> None:
        super().__init__(name, commit)
        self._engines = engines or functools.partial(_engines_of, registry.session_factory)
        self.registry = registry
        self._removes = removes
        _listen()
        self.session_class = _session_class(registry)
        _SCOPED.add(self.session_class)

    def claim(self) -> Claim:
        """Claim the session of the current scope."""
        return self._claim(self.registry())

    def reach(self) -> None:
        """Raise unless every database that its sessions work with answers."""
        _reach(self._engines())

    def suspend(self) -> Callable[[], None] | None:
        """Give an inner task a session of its own, where the scope is the thread's."""
        registry = self.registry.registry
        if not self._removes or not registry.has():
            return None
        session = registry()
        registry.clear()

        def resume() -> None:
            registry.set(session)

        return resume

    def has(self, session: Session) -> bool:
        """Whether a session is the one of the current scope."""
        try:
            return self.registry.registry.has() and self.registry() is session
        except RuntimeError:  # Flask-SQLAlchemy's scope is the application context
            return False

    def began(self, session: Session, task: Task) -> None:
        """Claim a session that has begun a transaction, for the task that is running."""
        round_ = task.open_round()
        if round_ is None:
            return
        own = round_.claims.get(self)
        if own is not None and own.value is session:
            return
        known = _claim_of(session)
        if known is None or known.round is None:
            known = self._claim(session, self if own is None else AnotherSession(self))
            if self.commit == "task" and not self._removes and is_inner(task):
                # Flask-SQLAlchemy would remove it at the end of that context, with its work.
                at_teardown(functools.partial(self._keep, known))
            round_.use(known)
        elif own is None or known.round.task is task:
            round_.use(known)

    def written(self, session: Session, task: Task) -> None:
        """Claim a session whose transaction an outer context began, now that this task writes."""
        round_ = task.open_round()
        if round_ is None or self in round_.claims:
            return
        known = _claim_of(session)
        if known is None or known.round is None or known.round.task is not task:
            round_.use(self._claim(session))

    def _claim(self, session: Session, resource: Resource | None = None) -> SessionClaim:
        return SessionClaim(resource or self, session, functools.partial(self._let_go, session))

    def _keep(self, claim: Claim) -> None:
        """Take a session out of a scope that ends before its task does."""
        if claim.round is not None and self.has(claim.value):
            self.registry.registry.clear()

    def _let_go(self, session: Session) -> None:
        is_current = self.has(session)
        if is_current and self._removes:
            self.registry.remove()
        elif not is_current and (self._removes or self.commit == "task"):
            session.close()  # another thread's, or of a scope that has ended


class AnotherSession(Resource):
    """A further session of a scoped session in one task: an inner context's, or a thread's."""

    def __init__(self, first: ScopedSession) -> None:
        super().__init__(first.name, first.commit)


class SessionClaim(Claim):
    """A claimed session."""

    tells: ClassVar[bool] = True

    def __init__(self, resource: Resource, session: Session, release: Callable[[], Any]) -> None:
        super().__init__(resource, session)
        self._release = release
        self._ending = "close"
        self._connections: list[tuple[Any, dict[Any, Any]]] = []
        _listen()
        # A session can have been claimed before, by the task of a test's fixture: Flask 3.1 lends
        # requests its context. Until this claim is released, the session tells this one.
        self._outer = _claim_of(session)
        self.lent = self._outer is not None and self._outer.round is not None
        session.info[_CLAIM] = self
        self._current: Transaction | None = None
        self.look_again()

    def look_again(self) -> None:
        """Find out whether a transaction is open, where no event has told."""
        self._current = None
        if not self.value.in_transaction():
            return
        self._current = Transaction(self, wrote=_pending(self.value))
        # What it has reached already tells of it from now on; of what was written before, nothing.
        for connection in _connections_of(self.value):
            self.connected(connection)
            _listen_to(connection.engine)

    def transaction(self) -> Transaction | None:
        return self._current

    def unsaved(self) -> bool:
        current = self._current
        return current is not None and (current.wrote or _pending(self.value))

    def savepoint(self) -> SessionSavepoint:
        return SessionSavepoint(self)

    def refuse_aborted(self) -> None:
        """Raise if the database would answer a commit with a rollback."""
        for connection, _ in self._connections:
            refuse_aborted_under(connection, self.resource.name)

    def commit(self) -> None:
        self.value.commit()

    def rollback(self) -> None:
        if self.value.in_transaction():
            self.value.rollback()

    def release(self) -> None:
        if self._outer is not None and self._outer.round is not None:
            self.value.info[_CLAIM] = self._outer
            self._outer.look_again()
        else:
            self.value.info.pop(_CLAIM, None)
        self._release()

    # What the session's events tell.

    def root_began(self) -> None:
        """The session began a transaction that is no savepoint."""
        self._ending = "close"
        self._current = Transaction(self)

    def root_ending(self, how: str) -> None:
        """It is about to end by ``commit`` or ``rollback``."""
        self._ending = how

    def root_ended(self) -> None:
        """It ended."""
        for _, info in self._connections:
            info.pop(_CLAIM, None)
        self._connections.clear()
        transaction, self._current = self._current, None
        if transaction is not None and self.round is not None:
            self.round.transaction_ended(transaction, self._ending)

    def connected(self, connection: Any) -> None:
        """The transaction reached a connection: its statements will tell what they write."""
        connection.info[_CLAIM] = self
        self._connections.append((connection, connection.info))

    def wrote(self) -> None:
        """Something was written, or is about to be."""
        if self._current is not None:
            self._current.wrote = True


class SessionSavepoint(Nested):
    """A savepoint of a claimed session, which undoes also what is known of its writes."""

    def __init__(self, claim: SessionClaim) -> None:
        super().__init__(claim.value)
        self._transaction = claim.transaction()
        self._wrote = self._transaction is not None and self._transaction.wrote

    def rollback(self) -> None:
        super().rollback()
        if self._transaction is not None:
            self._transaction.wrote = self._wrote


def _pending(session: Session) -> bool:
    """Whether changes wait for a flush."""
    return bool(session.new or session.deleted or session.dirty)


def _session_class(registry: scoped_session[Any]) -> type[Session]:
    factory = registry.session_factory
    class_ = getattr(factory, "class_", None)
    if not (isinstance(class_, type) and issubclass(class_, Session)):
        raise TypeError(
            f"arm.use() was given a scoped_session around {factory!r}, which is no sessionmaker."
            " Write scoped_session(sessionmaker(engine))."
        )
    return class_


def _claim_of(session: Session) -> SessionClaim | None:
    claim: SessionClaim | None = session.info.get(_CLAIM)
    return claim


@functools.cache
def _listen() -> None:
    """Register the listeners, once in a process and not before they are needed."""
    event.listen(Session, "after_transaction_create", _after_transaction_create)
    event.listen(Session, "after_begin", _after_begin)
    event.listen(Session, "before_commit", _before_commit)
    event.listen(Session, "after_commit", _after_commit)
    event.listen(Session, "after_soft_rollback", _after_soft_rollback)
    event.listen(Session, "after_transaction_end", _after_transaction_end)
    event.listen(Session, "after_flush", _after_flush)
    event.listen(Session, "transient_to_pending", _transient_to_pending)


def _after_transaction_create(session: Session, transaction: Any) -> None:
    if transaction.parent is not None:
        return
    claim = _claim_of(session)
    if claim is not None:
        claim.root_began()
    joined = _joined(session)
    if joined is not None:
        resource, task = joined
        resource.began(session, task)
        claim = _claim_of(session)
        if claim is not None and claim.transaction() is None:
            claim.root_began()
    elif claim is not None:
        _use_in_callback(claim)


def _joined(session: Session) -> tuple[ScopedSession, Task] | None:
    """The running task, and its scoped session if that is what a session comes from."""
    if type(session) not in _SCOPED:
        return None
    task = find_task(create=True)
    if task is None:
        return None
    for resource in task.state.joining:
        if type(session) is resource.session_class and resource.has(session):
            return resource, task
    return None


def _use_in_callback(claim: SessionClaim) -> None:
    """A callback that works on its task's session gets it into its own round."""
    task = find_task(create=False)
    if task is None:
        return
    round_ = task.open_round()
    if round_ is not None and round_.parent is not None:
        round_.claim(claim.resource, task)


def _after_begin(session: Session, transaction: Any, connection: Any) -> None:
    claim = _claim_of(session)
    if claim is None:
        return
    claim.connected(connection)
    _listen_to(connection.engine)


def _listen_to(engine: Engine) -> None:
    if engine not in _engines:
        _engines.add(engine)
        event.listen(engine, "after_cursor_execute", _after_cursor_execute)


def _connections_of(session: Session) -> list[Any]:
    """The connections that a session's open transaction has reached."""
    transaction: Any = session.get_transaction()
    known: dict[Any, Any] = getattr(transaction, "_connections", {})
    return list({id(entry[0]): entry[0] for entry in known.values()}.values())


def _before_commit(session: Session) -> None:
    """Refuse by hand what the task would refuse, or the database answer with a rollback."""
    claim = _claim_of(session)
    if claim is not None and not session.in_nested_transaction():
        if claim.round is not None:
            claim.round.refuse_if_doomed(claim.resource)
        claim.refuse_aborted()


def _after_cursor_execute(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> None:
    claim: SessionClaim | None = connection.info.get(_CLAIM)
    if claim is None:
        return
    if context.is_crud or not _only_reads(statement):
        _written(claim.value)


def _only_reads(statement: str) -> bool:
    """Whether a statement that SQLAlchemy has not compiled (``text()``) changes nothing."""
    words = statement.lower().split(None, 1)
    if not words:
        return True
    first = words[0].lstrip("(")
    if first == "with":
        return not any(word in statement.lower() for word in ("insert", "update", "delete"))
    return first in _READS


def _after_commit(session: Session) -> None:
    claim = _claim_of(session)
    if claim is not None and not session.in_nested_transaction():
        claim.root_ending("commit")


def _after_soft_rollback(session: Session, previous_transaction: Any) -> None:
    claim = _claim_of(session)
    if claim is not None and previous_transaction.parent is None:
        claim.root_ending("rollback")


def _after_transaction_end(session: Session, transaction: Any) -> None:
    if transaction.parent is None:
        claim = _claim_of(session)
        if claim is not None:
            claim.root_ended()


def _after_flush(session: Session, flush_context: Any) -> None:
    _written(session)


def _transient_to_pending(session: Session, instance: Any) -> None:
    _written(session)


def _written(session: Session) -> None:
    joined = _joined(session)
    if joined is not None:
        resource, task = joined
        resource.written(session, task)
    claim = _claim_of(session)
    if claim is not None:
        claim.wrote()


def resource_for(thing: Any, commit: CommitMode | None) -> Resource | None:
    """The resource for a Flask-SQLAlchemy object, an engine, a session factory, a scoped session.

    Args:
        thing: What was given to ``arm.use``.
        commit: Who commits, or ``None`` for the default of its kind.

    Returns:
        The resource, or ``None`` if it is nothing of SQLAlchemy's that is known.
    """
    if isinstance(thing, Engine):
        return EngineConnections(thing, commit or "task")
    if isinstance(thing, sessionmaker):
        return SessionMaker(thing, commit or "task")
    if isinstance(thing, scoped_session):
        return ScopedSession(thing, "session", commit or "task", removes=True)
    session = getattr(thing, "session", None)
    if hasattr(thing, "init_app") and isinstance(session, scoped_session):
        engines = functools.partial(_engines_of_extension, thing)
        return ScopedSession(
            session, "db.session", commit or "explicit", removes=False, engines=engines
        )
    return None


def _engines_of_extension(thing: Any) -> list[Engine]:
    """The engines of Flask-SQLAlchemy for the current application."""
    return list(getattr(thing, "engines", {}).values())


def _engines_of(factory: Any) -> list[Engine]:
    """The engines that a session factory was given."""
    options: Mapping[str, Any] = getattr(factory, "kw", {})
    binds = [options.get("bind"), *(options.get("binds") or {}).values()]
    return list({bind.engine for bind in binds if bind is not None})


def _reach(engines: Iterable[Engine]) -> None:
    for engine in engines:
        try:
            with engine.connect() as connection:
                reach(connection)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # It was of before the server's restart. Now the pool has dropped all such ones.
            with engine.connect() as connection:
                reach(connection)
