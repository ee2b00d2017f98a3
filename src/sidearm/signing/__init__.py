"""Chapter 6: what leaves the application signed, and has to come back unforged (S1 to S4)."""

from __future__ import annotations

from ..spent import CREATE_SPENT_TOKENS as CREATE_SPENT_TOKENS
from ..spent import spent_tokens_table as spent_tokens_table
from .exceptions import BadSignedURL as BadSignedURL
from .exceptions import BadToken as BadToken
from .exceptions import ExpiredSignedURL as ExpiredSignedURL
from .exceptions import ExpiredToken as ExpiredToken
from .exceptions import SpentToken as SpentToken
from .exceptions import StaleToken as StaleToken
from .exceptions import TokenError as TokenError
from .links import external_url_for as external_url_for
from .tokens import Token as Token
from .tokens import TokenKind as TokenKind
from .urls import signed_url_for as signed_url_for
from .urls import signed_url_required as signed_url_required
