"""Chapter 7: bodies as they come, and webhooks, which are signed byte by byte (Q1)."""

from __future__ import annotations

from .exceptions import BadDelivery as BadDelivery
from .exceptions import ChangedDelivery as ChangedDelivery
from .exceptions import MalformedDelivery as MalformedDelivery
from .raw import raw_body as raw_body
from .schemes import Delivery as Delivery
from .webhooks import verify_webhook as verify_webhook
