"""What a page says of its files beside their URLs: ``integrity_for`` and ``import_map``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flask import current_app, url_for
from markupsafe import Markup

from ..tasks.state import state_of

if TYPE_CHECKING:
    from .installation import Assets

#: What would end a script element, or begin another (HTML, 4.12.1.3).
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def integrity_for(endpoint: str, /, *, filename: str) -> str:
    """What the ``integrity`` attribute of a link or script says (Subresource Integrity).

    ``<link rel="stylesheet" href="{{ url_for('static', filename='shop.css') }}"
    integrity="{{ integrity_for('static', filename='shop.css') }}">``. Where the files come from
    another host (``SIDEARM_ASSETS_URL``) the element needs ``crossorigin`` too.

    Args:
        endpoint: As for ``url_for``: ``static``, or ``admin.static`` of a blueprint.
        filename: The file's name below its folder.

    Returns:
        ``sha384-`` and the digest; nothing, which browsers accept, without ``SIDEARM_ASSETS`` or
        if there is no such file.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    assets = _assets()
    asset = assets and assets.asset(endpoint, filename)
    return asset.integrity if asset else ""


def import_map(
    imports: Mapping[str, str], /, *, endpoint: str = "static", **attributes: str
) -> Markup:
    """A ``<script type="importmap">``: what bare names in modules mean (HTML, 8.1.6.2).

    It goes before every module of a page: ``{{ import_map({"cart": "shop/cart.js"}) }}``, and then
    ``import { add } from "cart"``. The digests of these modules, and of all that they import, are
    in it, so that browsers check them.

    Args:
        imports: File names by their bare names. What begins with ``http:``, ``https:`` or ``/`` is
            taken as it is.
        endpoint: The endpoint of the files.
        attributes: More attributes of the element, such as ``nonce``.

    Returns:
        The element.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    assets = _assets()
    urls: dict[str, str] = {}
    digests: dict[str, str] = {}
    for name, filename in imports.items():
        if filename.startswith(("/", "http://", "https://")):
            urls[name] = filename
            # A URL that knows its own digest, such as that of sidearm.js.
            if digest := getattr(filename, "integrity", ""):
                digests[filename] = digest
            continue
        urls[name] = url_for(endpoint, filename=filename)
        asset = assets and assets.asset(endpoint, filename)
        if assets and asset:
            for each in assets.graph.closure(asset):
                if each.key[1].endswith((".js", ".mjs")):
                    url = url_for(each.key[0], filename=each.key[1])
                    digests[url] = each.integrity
    text = json.dumps(
        {"imports": urls, **({"integrity": digests} if digests else {})}, ensure_ascii=False
    )
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    more = Markup("").join(Markup(' {}="{}"').format(*each) for each in attributes.items())
    return Markup('<script type="importmap"{}>{}</script>').format(more, Markup(text))  # noqa: S704


def _assets() -> Assets | None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 (its API)
    found: Assets | None = state_of(app).assets
    return found
