"""A view that takes signed deliveries, and can fail, or die, on demand."""

from __future__ import annotations

import os
import signal
from typing import Any

from flask import Flask, abort
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from sidearm import Delivery, Sidearm, after_commit, verify_webhook

app = Flask(__name__)
app.config["SIDEARM_WEBHOOKS"] = {
    "pay": {"scheme": "standard", "secrets": [os.environ["WEBHOOK_SECRET"]]}
}
arm = Sidearm(app)

database = os.environ["DATABASE_URL"]
statement: Any = "INSERT INTO payments VALUES (1)"
if os.environ["RESOURCE"] == "pool":
    pool = ConnectionPool(database, min_size=1, max_size=4, open=True, timeout=120)
    get_database = arm.use(pool)
else:
    options = {"timeout": 120} if database.startswith("sqlite") else {}
    engine = create_engine(
        database.replace("postgresql:", "postgresql+psycopg:"),
        pool_size=4,
        pool_timeout=120,
        connect_args=options,
    )
    get_database = arm.use(sessionmaker(engine))
    statement = text(statement)


@app.post("/hooks/pay")
@verify_webhook("pay")
def pay(delivery: Delivery) -> tuple[str, int]:
    """Write a payment; the body says what happens then."""
    get_database().execute(statement)
    order = delivery.json(dict[str, str])
    if order["then"] == "fail":
        abort(503)
    if order["then"] == "die":

        @after_commit
        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    return "paid", 202


@app.get("/out")
def out() -> str:
    """How many connections of this process are not in their pool."""
    if os.environ["RESOURCE"] == "pool":
        figures = pool.get_stats()
        return str(figures["pool_size"] - figures["pool_available"])
    return str(engine.pool.checkedout())  # type: ignore[attr-defined]
