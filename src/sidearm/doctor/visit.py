"""One examination: everything that is asked, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import httpx

from ..exceptions import DoctorError
from .findings import Finding, Report
from .origins import doubled, examine_origin
from .pools import examine_pool
from .probing import Prober, told
from .site import MOST_FILES, examine_file, examine_protocol, first_page, references_of
from .streams import examine_stream
from .target import Target, origin_of

DEFAULT_PORTS = (8000, 8001)  # of the pools, as they are exported


def examine(
    target: Target,
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    slashed: Iterable[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examine a deployment.

    Args:
        target: What is examined.
        ports: Where its pools may listen on the same host.
        slashed: URLs that end with a slash, and redirect there without it.
        progress: Told what is looked at.

    Raises:
        DoctorError: Nothing answers.
    """
    report = Report(target.url)

    def take(found: Iterable[Finding | str]) -> None:
        for each in found:
            if isinstance(each, str):
                report.passed.append(each)
            else:
                report.findings.append(each)

    prober = Prober(target)
    try:
        prober.connect()
        progress("the first page")
        page, url, loops = first_page(prober, target)
        files, links = references_of(page, url)
        take(loops)
        take(examine_protocol(prober, target, page))
        probes = [doubled(each) for each in target.streams]
        probes += [each.rstrip("/") for each in slashed]
        take(examine_origin(prober, target, page, links, probes))
        own = [each for each in files if _is_asset(each, target)]
        for file in dict.fromkeys((*target.files, *own[:MOST_FILES])):
            progress(file)
            take(examine_file(prober, file))
        for pool in target.pools:
            progress(pool)
            take(examine_pool(prober, target, page, pool, is_named=True))
        for pool in _guessed(target, ports):
            progress(pool)
            take(
                each
                for each in examine_pool(prober, target, page, pool, is_named=False)
                if isinstance(each, Finding)
            )
        for stream in target.streams:
            progress(f"{stream} (up to {target.silence:g} s)")
            take(examine_stream(prober, target, stream))
    except httpx.HTTPError as error:
        raise DoctorError(f"{target.url} has stopped answering: {told(error)}.") from error
    finally:
        prober.close()
    if not target.streams:
        report.passed.append("No stream was looked at. Name one by --stream /path.")
    return report


def _is_asset(url: str, target: Target) -> bool:
    path = urlsplit(url).path
    return origin_of(url) == target.origin and "." in path.rpartition("/")[2]


def _guessed(target: Target, ports: Iterable[int]) -> list[str]:
    """Where pools may be; from this machine itself they have to be reachable."""
    if target.is_loopback:
        return []
    parts = urlsplit(target.url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    own = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return [f"http://{host}:{port}/" for port in ports if port != own]
