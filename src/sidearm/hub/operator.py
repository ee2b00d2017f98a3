"""The operator's end of the hub's socket: what there is, and a new hub in place of the old one."""

from __future__ import annotations

import time
from collections import Counter

from ..exceptions import HubError, ProtocolError
from .config import socket_of
from .link import Link
from .messages import (
    MAX_LISTED,
    Channels,
    Figures,
    FromHub,
    ListChannels,
    Message,
    NotReplaced,
    Refused,
    Replace,
    Replacing,
    Stats,
    encode,
)
from .reader import NoHub

PATIENCE = 5.0  # seconds
REPLACE_PATIENCE = 75.0  # seconds; a new process has to start, and `up` gives it 60
PAUSE = 0.1  # seconds


def connect(socket_path: str, role: str = "ask") -> Link:
    """A connection to the hub, or an error for people.

    Raises:
        NoHub: Nobody is there.
        HubError: Something is there that is no hub of this user and version.
    """
    try:
        return Link(socket_path, role, PATIENCE)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoHub(
            f"No hub answers on {socket_path!r} ({error.strerror}). Start one with 'flask sidearm"
            " up', or give the socket of the one that runs: --socket PATH, or SIDEARM_SOCKET.",
            socket_path,
        ) from error
    except PermissionError as error:
        raise HubError(
            f"The socket {socket_path!r} is another user's, and only its user may use it. Run this"
            " command as that user, or give another socket: --socket PATH, or SIDEARM_SOCKET.",
            socket_path,
        ) from error
    except TimeoutError as error:
        raise HubError(
            f"What listens on {socket_path!r} did not answer within {PATIENCE:g} seconds. It is"
            " stuck, or it is no hub.",
            socket_path,
        ) from error
    except (OSError, ProtocolError) as error:
        raise HubError(
            f"What listens on {socket_path!r} is no hub of this version ({error}). Give the hub's"
            " socket: --socket PATH, or SIDEARM_SOCKET.",
            socket_path,
        ) from error


def read_figures(socket_path: str) -> Figures:
    """The hub's figures.

    Raises:
        HubError: They cannot be had; the message says why.
    """
    answer = _ask(socket_path, Stats())
    if not isinstance(answer, Figures):
        raise _misunderstood(socket_path, answer)
    return answer


def sockets_beside(socket_path: str) -> list[str]:
    """The sockets of all hubs that share the streams of a machine, the first one first.

    Args:
        socket_path: Of the first.

    Raises:
        HubError: It does not say.
    """
    return [socket_of(socket_path, number) for number in range(read_figures(socket_path).hubs)]


def read_all_figures(socket_path: str) -> tuple[list[Figures], list[str]]:
    """The figures of all hubs, and why those of some are missing.

    Args:
        socket_path: Of the first.

    Raises:
        HubError: The first one's cannot be had; the message says why.
    """
    found = [read_figures(socket_path)]
    problems = []
    for number in range(1, found[0].hubs):
        try:
            found.append(read_figures(socket_of(socket_path, number)))
        except HubError as error:
            problems.append(str(error))
    return found, problems


def list_all_channels(socket_path: str, count: int) -> tuple[Channels, list[str]]:
    """The channels that somebody listens to at any hub, and why those of some are missing.

    The most subscribers come first. Above :data:`MAX_LISTED` channels, how many there are is a
    lower bound where there are several hubs: that of the one that has most.

    Args:
        socket_path: Of the first hub.
        count: How many are wanted at most.

    Raises:
        HubError: The first one's cannot be had; the message says why.
    """
    first, *others = sockets_beside(socket_path)
    if not others:
        return list_channels(socket_path, count), []
    # A channel may be among the largest only in the sum.
    each = [list_channels(first, MAX_LISTED)]
    problems = []
    for path in others:
        try:
            each.append(list_channels(path, MAX_LISTED))
        except HubError as error:
            problems.append(str(error))
    subscribers: Counter[str] = Counter()
    for listed in each:
        subscribers.update(dict(listed.channels))
    total = max(len(subscribers), *(listed.total for listed in each))
    return Channels(subscribers.most_common(count), total), problems


def list_channels(socket_path: str, count: int) -> Channels:
    """The channels that somebody listens to at one hub, the most subscribers first.

    Raises:
        HubError: They cannot be had; the message says why.
    """
    answer = _ask(socket_path, ListChannels(count))
    if not isinstance(answer, Channels):
        raise _misunderstood(socket_path, answer)
    return answer


def ask_for_replacement(socket_path: str) -> int | None:
    """Have the hub replaced by whoever started it, and wait until that has happened.

    Returns:
        The new hub's process; None: nobody looks after the hub, so the caller has to replace it.

    Raises:
        NoHub: None runs.
        HubError: It was not replaced, and goes on; the message says why.
    """
    link = connect(socket_path)
    try:
        answer = link.ask(Replace(), PATIENCE)
        if not isinstance(answer, Replacing):
            raise _misunderstood(socket_path, answer)
        return _wait_for_other(link, socket_path, answer.pid) if answer.supervised else None
    except (OSError, ProtocolError) as error:
        raise HubError(
            f"The hub on {socket_path!r} ended while it was to be replaced ({error}). Its log, or"
            " that of 'flask sidearm up', says why.",
            socket_path,
        ) from error
    finally:
        link.close()


def _wait_for_other(link: Link, socket_path: str, old: int) -> int:
    """Ask who is there until it is another: this connection goes over like all others."""
    deadline = time.monotonic() + REPLACE_PATIENCE
    waiting = False
    while time.monotonic() < deadline:
        if not waiting:
            link.send(encode(Stats()), PATIENCE)
            waiting = True
        for message in link.receive(PAUSE):
            if isinstance(message, NotReplaced):
                raise HubError(
                    f"The hub on {socket_path!r} was not replaced: {message.reason} Process {old}"
                    " goes on.",
                    socket_path,
                )
            if isinstance(message, Figures):
                if message.pid != old:
                    return message.pid
                waiting = False
        time.sleep(PAUSE)
    raise HubError(
        f"The hub on {socket_path!r} was not replaced within {REPLACE_PATIENCE:g} seconds. Process"
        f" {old} goes on; the log of 'flask sidearm up' says what became of the new one.",
        socket_path,
    )


def _ask(socket_path: str, message: Message) -> FromHub:
    link = connect(socket_path)
    try:
        return link.ask(message, PATIENCE)
    except (OSError, ProtocolError) as error:
        raise HubError(
            f"The hub on {socket_path!r} did not answer ({error}). Ask again; if that fails too,"
            " restart it.",
            socket_path,
        ) from error
    finally:
        link.close()


def _misunderstood(socket_path: str, answer: FromHub) -> HubError:
    reason = answer.reason if isinstance(answer, Refused) else f"It said {answer!r}."
    return HubError(
        f"The hub on {socket_path!r} and this command do not understand each other: {reason}"
        " Restart the hub, or use the command of its version.",
        socket_path,
    )
