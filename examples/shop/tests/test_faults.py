"""Buying, failed once at each of its steps: all of it happens, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Ledger

    from sidearm.testing import FaultRun, Faults

STOCK = 10

on_both = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def invariant(ledger: Ledger) -> Callable[[FaultRun], None]:
    """What must be true of the shop's own data after each run."""

    def check(run: FaultRun) -> None:
        assert ledger.stock + ledger.sold == STOCK, "a piece was lost, or sold twice"
        assert ledger.orders == (1 if run.committed else 0)
        assert ledger.mails <= ledger.orders, "a mail tells of an order that is not there"
        assert (run.status == 303) == run.committed or run.fault == "BaseException"

    return check


@on_both
def test_t3_t5_t7_a_purchase_survives_every_fault(
    sidearm_faults: Faults,
    buy: Callable[..., Any],
    ledger: Ledger,
    invariant: Callable[[FaultRun], None],
) -> None:
    """Stock, order, mail and news agree, whatever failed, and nothing is lost from the pool."""

    def restore() -> None:
        ledger.clear(STOCK)

    report = sidearm_faults.run(lambda: buy(quantity="3"), reset=restore, check=invariant)
    assert {"commit of db.session", "call of publish('stock')"} <= set(report.steps)


@on_both
def test_t4_a_refused_purchase_survives_every_fault(
    sidearm_faults: Faults, buy: Callable[..., Any], ledger: Ledger
) -> None:
    """Who wants more than there is gets none, and nobody hears of it, whatever failed."""

    def check(run: FaultRun) -> None:
        assert (ledger.stock, ledger.orders, ledger.customers) == (STOCK, 0, 0)
        assert run.events == []

    report = sidearm_faults.run(
        lambda: buy(quantity="11"), reset=lambda: ledger.clear(STOCK), check=check
    )
    assert report.runs[0].status == 409
