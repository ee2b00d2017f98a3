"""Speaks to a deployment as a browser would, by ``httpx``, and notes when each byte came."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

from ..exceptions import DoctorError
from ..hub.eventstream import Parser
from .target import Target, origin_of

#: What browsers accept.
ENCODINGS = "gzip, deflate, br, zstd"
#: What can be read here, whatever is installed.
READABLE = "gzip, deflate"
ENOUGH = 1 << 20  # bytes
#: What comes sooner after the head came with it; a stream that ends so soon was cut by nobody.
AT_ONCE = 0.5  # seconds
#: Later comments that show a heartbeat.
HEARTBEATS = 2


@dataclass(slots=True)
class Watched:
    """A stream, as it came.

    Attributes:
        url: Its URL.
        response: Its head.
        head_after: Seconds until the head came.
        arrivals: When bytes came, in seconds after the head.
        comments: How many comments came after the first bytes.
        ended_after: Seconds from the head to the end; ``None``: it did not end.
        is_encoded: Whether it has a coding, so that its bytes tell nothing here.
    """

    url: str
    response: httpx.Response
    head_after: float
    arrivals: list[float] = field(default_factory=list[float])
    comments: int = 0
    ended_after: float | None = None
    is_encoded: bool = False

    @property
    def gaps(self) -> list[float]:
        """Seconds of silence between arrivals, the head among them."""
        times = [0.0, *self.arrivals]
        return [after - before for before, after in pairwise(times)]

    @property
    def last_silence(self) -> float:
        """Seconds of silence before the end."""
        end = self.ended_after
        return 0.0 if end is None else end - (self.arrivals[-1] if self.arrivals else 0.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with the bytes of its body as they came.

    Attributes:
        head: Status and headers.
        body: Not decoded.
    """

    head: httpx.Response
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; empty if it cannot be read."""
        try:
            return httpx.Response(200, headers=self.head.headers, content=self.body).text
        except (httpx.HTTPError, LookupError):
            return ""


class Prober:
    """Sends requests.

    Args:
        target: What is examined.

    Attributes:
        certificate_error: Why the certificate is not trusted, if it is not.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.certificate_error: str | None = None
        self._client = self._make_client(ssl.create_default_context())

    def _make_client(self, verify: ssl.SSLContext) -> httpx.Client:
        return httpx.Client(
            http2=True,
            verify=verify,
            trust_env=False,  # a proxy of this machine would be what is examined
            headers={"User-Agent": "sidearm-doctor", "Accept-Encoding": ENCODINGS},
            timeout=self._target.patience,
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def connect(self) -> None:
        """See that something answers at all; a certificate that is not trusted is noted.

        Raises:
            DoctorError: Nothing does.
        """
        try:
            self.get(self._target.url)
        except httpx.HTTPError as error:
            reason = _ssl_error(error)
            if reason is None:
                raise DoctorError(
                    f"{self._target.url} does not answer: {told(error)}. See whether the host and"
                    " the port are right, and whether the front runs."
                ) from error
            self.certificate_error = (
                reason.verify_message
                if isinstance(reason, ssl.SSLCertVerificationError)
                else str(reason)
            )
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._client.close()
            self._client = self._make_client(context)
            try:
                self.get(self._target.url)
            except httpx.HTTPError as again:
                raise DoctorError(
                    f"{self._target.url} does not speak TLS that is understood here: {told(again)}."
                ) from again

    def get(self, url: str, method: str = "GET", **headers: str) -> Answer:
        """Ask once; redirects are not followed, and of a long body the beginning is enough.

        Raises:
            httpx.HTTPError: There was no answer.
        """
        began = time.monotonic()
        given = self.headers_for(url, headers)
        body = bytearray()
        with self._client.stream(method, url, headers=given) as response:
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > ENOUGH or time.monotonic() - began > self._target.patience:
                    break
            return Answer(response, bytes(body))

    def headers_for(self, url: str, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a request: given ones, and what the operator wants sent along.

        Args:
            url: Whom it is for.
            headers: With underscores.
        """
        # What proves who asks is for the application alone, its pools among it.
        own = {self._target.origin, *(origin_of(pool) for pool in self._target.pools)}
        secret = self._target.headers if origin_of(url) in own else {}
        return {**secret, **{name.replace("_", "-"): value for name, value in headers.items()}}

    def watch(self, url: str) -> Watched | None:
        """Open a stream, and note what comes until it is clear.

        Returns:
            ``None`` if no head came within the patience.

        Raises:
            httpx.HTTPError: The connection failed before.
        """
        with self._opened(url) as watched:
            if watched is not None and watched.response.status_code == 200:
                self._follow(watched)
            return watched

    def watch_head(self, url: str) -> Watched | None:
        """Open a stream, wait for its head, and leave.

        Returns:
            ``None`` if none came within the patience.

        Raises:
            httpx.HTTPError: The connection failed before.
        """
        with self._opened(url) as watched:
            return watched

    @contextmanager
    def _opened(self, url: str) -> Generator[Watched | None]:
        # The dictionary is looked at before each read, so the body gets a limit of its own.
        patience = self._target.patience
        self._limits = dict.fromkeys(("connect", "read", "write", "pool"), patience)
        request = self._client.build_request(
            "GET",
            url,
            headers=self.headers_for(url, {"Accept": "text/event-stream"}),
            extensions={"timeout": self._limits},
        )
        began = time.monotonic()
        try:
            response = self._client.send(request, stream=True)
        except httpx.ReadTimeout:
            yield None
            return
        try:
            yield Watched(url, response, time.monotonic() - began)
        finally:
            response.close()

    def _follow(self, watched: Watched) -> None:
        began = time.monotonic()
        self._limits["read"] = self._target.silence
        watched.is_encoded = is_encoded(watched.response)
        parser = Parser()
        first_comments = 0
        try:
            for chunk in watched.response.iter_raw():
                now = time.monotonic() - began
                watched.arrivals.append(now)
                if not watched.is_encoded:
                    parser.feed(chunk)
                if now < AT_ONCE:
                    first_comments = len(parser.comments)
                watched.comments = len(parser.comments) - first_comments
                if watched.comments >= HEARTBEATS or now > self._target.silence:
                    return
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError:  # reset, or cut in the middle
            pass
        watched.ended_after = time.monotonic() - began


def is_encoded(response: httpx.Response) -> bool:
    """Whether a body has a coding."""
    coding: str = response.headers.get("Content-Encoding", "identity")
    return coding.lower() != "identity"


def told(error: httpx.HTTPError) -> str:
    """An error in a few words."""
    if isinstance(error, httpx.TimeoutException):
        return "nothing came in time"
    return str(error) or type(error).__name__


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def hops_of(response: httpx.Response) -> list[str]:
    """What is on the way, as far as the headers tell: ``nginx``, ``Caddy``, ``cloudflare``."""
    headers = response.headers
    found = [via.split()[-1] for via in headers.get("Via", "").split(",") if via.split()]
    server = headers.get("Server", "").split("/")[0].strip()
    signs = {"CF-Ray": "Cloudflare", "X-Amz-Cf-Id": "CloudFront", "X-Varnish": "Varnish"}
    found += [name for sign, name in signs.items() if sign in headers]
    return list(dict.fromkeys(each for each in (*found, server) if each))
