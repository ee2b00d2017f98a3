"""Does a deployed file still cover what streams? Answered as the front itself would choose.

nginx's file is read into blocks, and for a path of each streaming route the location is found by
nginx's own rules (an exact one, the longest prefix, expressions in their order). So files that were
written or changed by hand can be checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...exceptions import ExportError
from ..topology import Route
from .deployment import Deployment
from .locations import location_of

_NGINX_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<mark>[{};])"""
    r"""|(?P<word>(?:[^\s{};"'\\]|\\.|\$\{[^}]*\})(?:[^\s{};\\]|\\.|\$\{[^}]*\})*)""",
    re.DOTALL,
)


@dataclass(slots=True)
class Directive:
    """One directive of nginx, with what stands in its block.

    Attributes:
        words: Its name and its arguments, without quotes.
        block: The directives between its braces.
    """

    words: tuple[str, ...]
    block: list[Directive] = field(default_factory=list["Directive"])

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0]

    def value(self, name: str) -> str | None:
        """The first argument of a directive in the block; the last one counts, as in nginx."""
        found = [each.words[1] for each in self.block if each.name == name and len(each.words) > 1]
        return found[-1] if found else None


def check_nginx(text: str, deployment: Deployment) -> list[str]:
    """What is wrong with nginx's configuration for an application's streams.

    Args:
        text: The whole file, or one that has ``server`` blocks.
        deployment: What it should cover.

    Returns:
        One sentence for each streaming route that it does not cover.

    Raises:
        ExportError: It is no configuration of nginx.
    """
    http = _outer(parse_nginx(text))
    servers = [each for each in http.block if each.name == "server"]
    servers = [each for each in servers if any(x.name == "location" for x in each.block)]
    if not servers:
        raise ExportError("There is no server with a location in it.")
    return [
        problem
        for server in servers[:1]
        for route in deployment.topology.streaming()
        if (problem := _problem(route, http, server, deployment))
    ]


def _problem(
    route: Route, http: Directive, server: Directive, deployment: Deployment
) -> str | None:
    wanted = location_of(route.source, deployment.choices.prefix)
    if wanted.example is None:
        covered = any(wanted.pattern in each.words for each in server.block)
        return None if covered else f"{route.rule}: there is no location ~ {wanted.pattern}."
    location = _chosen(server, wanted.example)
    if location is None:
        return f"{route.rule}: no location matches {wanted.example}."
    there = f"{route.rule}: {wanted.example} is served by 'location {' '.join(location.words[1:])}'"
    target = location.value("proxy_pass")
    if target is None:
        return f"{there}, which passes nothing on."
    if (location.value("proxy_buffering") or _inherited(http, server)) != "off":
        return f"{there}, which collects events: proxy_buffering is not off."
    if deployment.layout == "talk" and not _leads_to(target, deployment, http):
        port = deployment.streaming.port
        return f"{there}, which leads to {target} and not to the streaming pool on port {port}."
    return None


def _inherited(http: Directive, server: Directive) -> str | None:
    return server.value("proxy_buffering") or http.value("proxy_buffering")


def _leads_to(target: str, deployment: Deployment, http: Directive) -> bool:
    host = target.partition("://")[2].partition("/")[0]
    servers = [
        each.words[1]
        for upstream in http.block
        if upstream.words == ("upstream", host)
        for each in upstream.block
        if each.name == "server" and len(each.words) > 1
    ] or [host]
    return all(each.rpartition(":")[2] == str(deployment.streaming.port) for each in servers)


def _chosen(server: Directive, path: str) -> Directive | None:
    """The location that nginx takes for a path."""
    best: tuple[int, Directive] | None = None
    expressions: list[tuple[str, Directive]] = []
    final = False
    for location in (each for each in server.block if each.name == "location"):
        *modifier, pattern = location.words[1:]
        how = modifier[0] if modifier else ""
        if how == "=":
            if pattern == path:
                return location
        elif how in {"~", "~*"}:
            expressions.append((f"(?i:{pattern})" if how == "~*" else pattern, location))
        elif path.startswith(pattern) and (best is None or len(pattern) > best[0]):
            best, final = (len(pattern), location), how == "^~"
    if not final:
        for pattern, location in expressions:
            if _matches(pattern, path):
                return location
    return best[1] if best else None


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise ExportError(
            f"'location ~ {pattern}' cannot be read here ({error}). Check this file by hand."
        ) from error


def _outer(directives: Sequence[Directive]) -> Directive:
    """What stands around the servers: the ``http`` block, or the file itself."""
    for directive in directives:
        if directive.name == "http":
            return directive
    return Directive(("http",), list(directives))


def parse_nginx(text: str) -> list[Directive]:
    """Read a configuration of nginx into directives.

    Args:
        text: The file.

    Raises:
        ExportError: Its braces or quotes do not match.
    """
    root = Directive(("",))
    stack = [root]
    words: list[str] = []
    for mark, word in _tokens(text):
        if not mark:
            words.append(word)
            continue
        if mark == "}":
            stack.pop()
        elif words:
            directive = Directive(tuple(words))
            stack[-1].block.append(directive)
            if mark == "{":
                stack.append(directive)
        words = []
        if not stack:
            raise ExportError("It is no configuration of nginx: there is one } too many.")
    if len(stack) > 1 or words:
        raise ExportError("It is no configuration of nginx: it ends in the middle of something.")
    return root.block


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Marks (braces, semicolons) and words, one of them empty; without comments."""
    place = 0
    while place < len(text):
        found = _NGINX_TOKEN.match(text, place)
        if found is None:
            line = text.count("\n", 0, place) + 1
            raise ExportError(f"It is no configuration of nginx: line {line} cannot be read.")
        place = found.end()
        if found["mark"]:
            yield found["mark"], ""
        elif word := found["quoted"] or found["word"]:
            yield "", _unquoted(word)


def _unquoted(token: str) -> str:
    if token[0] in "\"'":
        token = token[1:-1]
    return re.sub(r"\\([\"'\\])", r"\1", token)


_CADDY_TOKEN = re.compile(
    r"""[^\S\n]+|\#[^\n]*|`(?P<raw>[^`]*)`|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<word>[^\s`"]\S*)"""
    r"""|(?P<line>\n)"""
)


def check_caddy(text: str, deployment: Deployment) -> list[str]:
    """What is wrong with a Caddyfile for an application's streams.

    Args:
        text: The file; what it does with streams has to be in a ``handle @streams`` with the
            matcher ``@streams path_regexp ...`` or ``@streams path ...``, as it is exported.
        deployment: What it should cover.

    Returns:
        One sentence for each streaming route that it does not cover.
    """
    lines = list(_caddy_lines(text))
    patterns = [
        _caddy_pattern(words[1:]) for words in lines if words[:1] == ["@streams"] and words[1:]
    ]
    handled = any(words[:2] == ["handle", "@streams"] for words in lines)
    problems: list[str] = []
    for route in deployment.topology.streaming():
        wanted = location_of(route.source, deployment.choices.prefix)
        covered = handled and any(
            _matches(pattern, wanted.example)
            if wanted.example is not None
            else wanted.pattern[1:-1] in pattern
            for pattern in patterns
        )
        if not covered:
            problems.append(f"{route.rule}: no 'handle @streams' matches it.")
    return problems


def _caddy_pattern(words: Sequence[str]) -> str:
    kind, *values = words
    if kind == "path_regexp" and values:
        return values[-1]
    if kind == "path":
        choices = (re.escape(value).replace(r"\*", ".*") for value in values)
        return f"^(?:{'|'.join(choices)})$"
    return r"(?!)"  # nothing that is known to match


def _caddy_lines(text: str) -> Iterator[list[str]]:
    words: list[str] = []
    for found in _CADDY_TOKEN.finditer(text + "\n"):
        if found["line"]:
            if words:
                yield words
            words = []
        else:
            word = next((w for w in (found["raw"], found["quoted"], found["word"]) if w), None)
            if word is not None:
                words.append(word)


_CHECKS = {"nginx": check_nginx, "caddy": check_caddy}


def check_file(kind: str, path: str, deployment: Deployment) -> list[str]:
    """What is wrong with a deployed file.

    Args:
        kind: What kind of file it is.
        path: Where it is.
        deployment: What it should cover.

    Returns:
        One sentence for each streaming route that it does not cover.

    Raises:
        ExportError: It cannot be read, or its kind says nothing about routes.
    """
    if kind not in _CHECKS:
        raise ExportError(f"Files for {kind} name no routes. Check those for nginx or caddy.")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}.") from error
    return _CHECKS[kind](text, deployment)
