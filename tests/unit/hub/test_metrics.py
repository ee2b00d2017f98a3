"""H10: the port of the figures."""

from __future__ import annotations

import pytest

from sidearm.exceptions import HubError
from sidearm.hub.metrics import open_port


def test_h10_a_port_that_there_is_not_is_named() -> None:
    """Several hubs count on from the one that is set, which may be the last."""
    with pytest.raises(HubError, match="SIDEARM_METRICS_PORT is 65536"):
        open_port(65_536)
