"""A view that activates users by links that work once: under CSRFProtect over SQLite, else not."""

from __future__ import annotations

import os
import threading
from typing import Any

from flask import Flask, abort, request, url_for
from flask_wtf import CSRFProtect
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from sidearm import Sidearm
from sidearm.signing import CREATE_SPENT_TOKENS

app = Flask(__name__)
app.config["SECRET_KEY"] = "for tests only, and long enough"
arm = Sidearm(app)

database = os.environ["DATABASE_URL"]
statement: Any = "INSERT INTO activations VALUES (42)"
if os.environ["RESOURCE"] == "pool":
    pool = ConnectionPool(database, min_size=1, max_size=4, open=True, timeout=120)
    get_database = arm.use(pool)
else:
    engine = create_engine(
        database.replace("postgresql:", "postgresql+psycopg:"), pool_size=4, pool_timeout=120
    )
    get_database = arm.use(sessionmaker(engine))
    statement = text(statement)
if database.startswith("sqlite"):
    CSRFProtect(app)
    with engine.begin() as connection:
        for each in [*CREATE_SPENT_TOKENS.split(";")[:-1], "CREATE TABLE activations (user_id)"]:
            connection.exec_driver_sql(each)

activate = arm.token("activate", int, max_age=3600, single_use=True)
inside = 0
lock = threading.Lock()


@app.get("/link/<int:user_id>")
def link(user_id: int) -> str:
    return url_for("activate_user", user_id=user_id)


@app.route("/activate/<token('activate'):user_id>", methods=["GET", "POST"])
@activate.confirm()
def activate_user(user_id: int) -> str:
    get_database().execute(statement)
    if "fail" in request.args:
        abort(409)
    return f"welcome, {user_id}; referrer {request.referrer}"


@app.get("/out")
def out() -> str:
    """How many connections of this process are not in their pool."""
    if os.environ["RESOURCE"] == "pool":
        figures = pool.get_stats()
        return str(figures["pool_size"] - figures["pool_available"])
    return str(engine.pool.checkedout())  # type: ignore[attr-defined]
