"""Fills in the templates; each kind of file quotes values in its own way."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...exceptions import ExportError
from ..topology import Pool
from .deployment import Deployment
from .locations import alternatives
from .programs import Program, programs_of
from .static_files import names_pattern, one_of

CONTAINER_RUN = "/run/sidearm"


def export(kind: str, deployment: Deployment) -> dict[str, str]:
    """The files of a kind: their names and texts.

    Args:
        kind: A key of :data:`KINDS`.
        deployment: What to write them for.

    Raises:
        ExportError: A value cannot stand in such a file.
    """
    return KINDS[kind](deployment)


def _nginx(deployment: Deployment) -> dict[str, str]:
    return {"nginx.conf": _nginx_text(deployment, _loopback)}


def _nginx_text(deployment: Deployment, host_of: Callable[[Pool], str]) -> str:
    return _render(
        "nginx.conf.j2",
        d=deployment,
        host_of=host_of,
        prefix_pattern=re.sub(r"([.+])", r"\\\1", deployment.choices.prefix),
        names_pattern=names_pattern,
        one_of=one_of,
    )


def _caddy(deployment: Deployment) -> dict[str, str]:
    choices = deployment.choices
    plain = f"http://{choices.server_name}:{choices.listen}"
    # By the bare name Caddy serves TLS, on 443, and sends plain HTTP there.
    site = plain if choices.server_name and choices.listen != 80 else choices.server_name
    if choices.certificate:
        site = f"https://{choices.server_name}:{choices.listen}"
    return {
        "Caddyfile": _render(
            "Caddyfile.j2",
            d=deployment,
            host_of=_loopback,
            site=site or f":{choices.listen}",
            alternatives=alternatives,
            names_pattern=names_pattern,
            one_of=one_of,
            suffixes_of=_suffixes_of,
        )
    }


def _suffixes_of(types: Mapping[str, str]) -> dict[str, list[str]]:
    """The extensions of each media type."""
    suffixes: dict[str, list[str]] = {}
    for suffix, kind in sorted(types.items()):
        suffixes.setdefault(kind, []).append(suffix)
    return suffixes


def _supervisor(deployment: Deployment) -> dict[str, str]:
    programs = programs_of(
        deployment,
        python=deployment.python,
        socket=deployment.socket,
        with_services=deployment.layout == "talk",
    )
    return {
        "supervisord.conf": _render(
            "supervisord.conf.j2",
            d=deployment,
            programs=[_InSupervisor(program) for program in programs],
            run_dir=deployment.choices.run_dir or "%(here)s",
            minfds=deployment.streams + 1024,
        )
    }


def _systemd(deployment: Deployment) -> dict[str, str]:
    run_dir = deployment.choices.run_dir or f"/run/{deployment.name}"
    programs = programs_of(
        deployment, python=deployment.python, socket=deployment.socket or f"{run_dir}/hub.sock"
    )
    units: dict[str, str] = {}
    for program in programs:
        unit = f"{deployment.name}.service"
        after: tuple[str, ...] = ()
        if deployment.layout == "talk":
            unit = f"{deployment.name}-{program.name}.service"
            if program.name != "hub":
                after = (f"{deployment.name}-hub.service",)
        units[unit] = _render(
            "unit.service.j2",
            d=deployment,
            each=program,
            after=after,
            unit=unit,
            minfds=deployment.streams + 1024,
        )
        if deployment.layout == "sidearm":
            name = f"{deployment.name}.socket"
            units[name] = _render("unit.socket.j2", d=deployment, each=program, unit=name)
    return units


def _procfile(deployment: Deployment) -> dict[str, str]:
    programs = programs_of(
        deployment,
        python=deployment.python,
        socket=deployment.socket,
        with_services=deployment.layout == "talk",
    )
    return {"Procfile": _render("Procfile.j2", d=deployment, programs=programs)}


def _compose(deployment: Deployment) -> dict[str, str]:
    # Containers have their own file system: what was chosen for this machine's is not there,
    # and nginx's own image has no Brotli.
    inside = replace(deployment, choices=replace(deployment.choices, run_dir=None, brotli=None))
    socket = f"{CONTAINER_RUN}/hub.sock" if deployment.layout == "talk" else None
    programs = programs_of(inside, python="python", host="0.0.0.0", socket=socket)  # noqa: S104
    return {
        "compose.yaml": _render(
            "compose.yaml.j2",
            d=inside,
            programs=programs,
            minfds=deployment.streams + 1024,
            container_run=CONTAINER_RUN,
            nginx=_nginx_text(inside, lambda pool: pool.name),
        )
    }


#: What ``flask sidearm export`` writes.
KINDS: Mapping[str, Callable[[Deployment], dict[str, str]]] = {
    "nginx": _nginx,
    "caddy": _caddy,
    "supervisor": _supervisor,
    "systemd": _systemd,
    "procfile": _procfile,
    "compose": _compose,
}


class _InSupervisor:
    """A program with its command as one string."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.command = shlex.join(program.command_line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


def _loopback(pool: Pool) -> str:  # noqa: ARG001 (in containers it depends on the pool)
    return "127.0.0.1"


def _comment(value: object) -> str:
    """Text that stays on its line."""
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else "?"
        for char in str(value)
    )


def _plain(value: str, what: str, unwanted: str = "") -> str:
    if any(unicodedata.category(char) == "Cc" or char in unwanted for char in value):
        raise ExportError(f"{value!r} cannot be written into {what}. Use other names.")
    return value


def _quote_nginx(value: str) -> str:
    # Nothing keeps nginx from reading a dollar as a variable, except at the end of an expression.
    _plain(value, "nginx's configuration", "" if value.startswith("^") else "$")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _quote_caddy(value: str) -> str:
    _plain(value, "a Caddyfile", "`")
    # A placeholder begins with a brace; counts in expressions, such as {4}, are none.
    if re.search(r"\{[$a-zA-Z]", value):
        raise ExportError(f"{value!r} cannot be written into a Caddyfile. Use other names.")
    return f"`{value}`"


def _caddy_word(value: str) -> str:
    """A word in a block of words; Caddy's own formatter wants no quotes there."""
    return value if re.fullmatch(r"[^\s`\"{}#]+", value) else json.dumps(value)


def _dedent(text: str) -> str:
    """Lines of a block that stands one level further out."""
    return re.sub(r"^    ", "", text, flags=re.MULTILINE)


def _ini(value: str) -> str:
    _plain(value, "supervisor's configuration")
    if " ;" in value or " #" in value:
        raise ExportError(f"{value!r} cannot be written into supervisor's configuration.")
    return value.replace("%", "%%")


def _ini_path(value: str) -> str:
    """A path where supervisor expands percent signs twice, so that none can be meant."""
    here = "%(here)s"  # the folder of the file itself
    rest = value.removeprefix(here)
    _plain(rest, "supervisor's configuration", "%")
    return (here if rest != value else "") + _ini(rest)


def _ini_environment(values: Mapping[str, str]) -> str:
    checked = {key: _plain(value, "its environment", '"') for key, value in values.items()}
    return _ini(",".join(f'{key}="{value}"' for key, value in checked.items()))


def _systemd_value(value: str) -> str:
    return _plain(value, "a unit").replace("%", "%%")


def _systemd_word(value: str) -> str:
    escaped = _systemd_value(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", value) or not value else escaped


def _systemd_command(words: Sequence[str]) -> str:
    return " ".join(_systemd_word(word).replace("$", "$$") for word in words)


def _procfile_command(program: Program) -> str:
    words = [f"{key}={shlex.quote(value)}" for key, value in program.environment.items()]
    return _plain(" ".join([*words, shlex.join(program.command_line)]), "a Procfile")


def _yaml(value: object) -> str:
    """JSON is YAML; a dollar would be Compose's own variable."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value)
    return text.replace("$", "$$")


_templates = Environment(
    loader=PackageLoader("sidearm.workers.export"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 (no HTML: each value has its format's own filter)
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.filters.update(
    comment=_comment,
    nginx=_quote_nginx,
    caddy=_quote_caddy,
    caddy_word=_caddy_word,
    dedent=_dedent,
    ini=_ini,
    ini_path=_ini_path,
    ini_environment=_ini_environment,
    systemd=_systemd_value,
    systemd_word=_systemd_word,
    systemd_command=_systemd_command,
    procfile_command=_procfile_command,
    yaml=_yaml,
)


def _render(template: str, **values: Any) -> str:
    return _templates.get_template(template).render(**values)
