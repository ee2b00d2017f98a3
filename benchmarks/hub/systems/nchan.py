"""nchan, the publish/subscribe module of nginx, as Debian has it; one worker."""

from __future__ import annotations

import os
import string
from contextlib import AbstractContextManager
from pathlib import Path

from sidearm.testing import Server

from ..load import Handshake
from ..system import CACHE, SSE_REQUEST, Running, System, http_post, running

UNPACKED = CACHE / "nginx"
TEMPORARY = Path("/var/lib/nginx/body")
CONFIG = string.Template("""
load_module $module;
daemon off;
$user
pid $folder/pid;
error_log $folder/error.log crit;
worker_processes 1;
worker_rlimit_nofile 20000;
events { worker_connections 19000; }
http {
    access_log off;
    client_body_temp_path $folder/client_body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    keepalive_requests 1000;
    nchan_message_buffer_length 1000;
    nchan_message_timeout 300s;
    server {
        listen 127.0.0.1:$port backlog=2048;
        location = /stream {
            nchan_subscriber eventsource;
            nchan_channel_id stock;
            nchan_eventsource_ping_interval 0;
        }
        location = /publish { nchan_publisher; nchan_channel_id stock; }
    }
}
""")


class RunningNchan(Running):
    """nchan takes one event by request, so that many at once are many requests in one write."""

    def publication(self, data: str, count: int) -> bytes:
        """The requests."""
        return http_post("/publish", data) * count


class NginxServer(Server):
    """nginx, in the foreground."""

    def command(self) -> list[str]:
        """The command line; the configuration is written first."""
        config = self.folder / "nginx.conf"
        # A worker that changed its user could not read the private folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            CONFIG.substitute(module=module(), folder=self.folder, port=self.port, user=user)
        )
        program = str(UNPACKED / "usr/sbin/nginx")
        return [
            program,
            "-c",
            str(config),
            "-p",
            str(self.folder),
            "-e",
            f"{self.folder}/error.log",
        ]


class Nchan(System):
    """nginx with nchan."""

    name = "nchan (C, in nginx)"
    fits_crowd = True

    def missing(self) -> str | None:
        """Nginx with its module."""
        if not module().exists():
            return "nginx with nchan ('scripts/setup bench' brings it)"
        if os.geteuid() != 0 and not TEMPORARY.exists():
            return f"the folder {TEMPORARY}, which nchan wants ('scripts/setup bench' as root)"
        return None

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        return running(NginxServer(), Handshake(SSE_REQUEST), RunningNchan)


def module() -> Path:
    """The file of the module."""
    return UNPACKED / "usr/lib/nginx/modules/ngx_nchan_module.so"
