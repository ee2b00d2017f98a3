"""Contract H11 where something stands between the view and the browser: compressors, silence."""

from __future__ import annotations

import http.client
import os
import re
import threading
import urllib.request
import zlib
from pathlib import Path

import pytest
from fronts import APPS, program

from sidearm.testing import EventSource, Server, UpServer

PATIENCE = 60.0  # seconds
#: Seconds in which nothing is published; `make test-long` gives 90.
SILENCE = float(os.environ.get("SILENCE", "2"))


class Reader:
    """What a browser does with a stream: it decompresses, and comes back by its last id.

    Attributes:
        encodings: The content codings of the answers.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._last_id = ""
        self._text = b""
        self.encodings: set[str | None] = set()

    def read_until(self, wanted: bytes) -> None:
        """Read over as many connections as it takes."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            headers = {"Accept-Encoding": "gzip, br, zstd"}
            headers |= {"Last-Event-ID": self._last_id} if self._last_id else {}
            connection.request("GET", "/streams/stock", headers=headers)
            if self._read(connection.getresponse(), wanted):
                connection.close()
                return
            connection.close()

    def _read(self, response: http.client.HTTPResponse, wanted: bytes) -> bool:
        assert response.status == 200
        encoding = response.headers["Content-Encoding"]
        self.encodings.add(encoding)
        gzip = zlib.decompressobj(wbits=31)
        text = b""
        while piece := response.read1(4096):
            text += piece if encoding is None else gzip.decompress(piece)
            for place in re.findall(rb"^id: (.+)\n", text, re.MULTILINE):
                self._last_id = place.decode()
            if wanted in text:
                return True
        return False


@pytest.mark.parametrize(
    ("compressed", "encoding"),
    [
        ("Flask-Compress", None),
        ("Flask-Compress, and streams on its list", None),
        ("a middleware", "gzip"),
    ],
)
def test_h11_c11_a_small_event_passes_a_compressor(compressed: str, encoding: str | None) -> None:
    """It arrives, with a true coding or none; where that rules a hand-off out, the log says why."""
    env = {"COMPRESSED": compressed}
    with UpServer("compressed", workers=2, cwd=APPS, env=env) as server:
        reader = Reader(server.port)
        reader.read_until(b"id: ")
        reading = threading.Thread(target=reader.read_until, args=(b"data: small\n",))
        reading.start()
        urllib.request.urlopen(f"{server.url}/publish", b"", PATIENCE).close()
        reading.join(PATIENCE)
        assert not reading.is_alive()
        assert reader.encodings == {encoding}
        reason = "a middleware added the header 'content-encoding'"
        assert (reason in server.log_text()) is (encoding is not None)


class StockNginx(Server):
    """nginx as a distribution has it, with ``proxy_pass`` alone.

    Args:
        port: The application's.
    """

    def __init__(self, port: int) -> None:
        super().__init__(start_timeout=PATIENCE)
        self._port = port

    def command(self) -> list[str]:
        """The command line, after its configuration is written."""
        folder: Path = self.folder
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        (folder / "nginx.conf").write_text(f"""
            daemon off;
            pid {folder}/pid;
            events {{}}
            http {{
                access_log off;
                {paths}
                server {{
                    listen 127.0.0.1:{self.port};
                    location / {{ proxy_pass http://127.0.0.1:{self._port}; }}
                }}
            }}
        """)
        return [program("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


@pytest.mark.timeout(PATIENCE + SILENCE + 60)
def test_h3_h11_c14_two_events_and_silence_between_them() -> None:
    """Behind a stock nginx both arrive, on one connection."""
    with UpServer("streams", workers=2, cwd=APPS) as up, StockNginx(up.port) as front:

        def publish(text: bytes) -> None:
            urllib.request.urlopen(f"{front.url}/publish/stock", text, PATIENCE).close()

        with EventSource(f"{front.url}/streams/stock", timeout=SILENCE + PATIENCE) as source:
            publish(b"twenty bytes of event")
            assert source.next_event().data == "twenty bytes of event"
            later = threading.Timer(SILENCE, publish, [b"and another"])
            later.start()
            try:
                assert source.next_event().data == "and another"  # StreamEnded if it were cut
            finally:
                later.join()
