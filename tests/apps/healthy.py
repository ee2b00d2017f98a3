"""Every kind of resource on one database, and Redis; nobody is let in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sidearm import Sidearm
from sidearm.resources.sqlite import SQLite

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = os.environ["DATABASE"]
FOLDER = Path(os.environ["SIDEARM_SOCKET"]).parent
URL = DATABASE.replace("postgresql://", "postgresql+psycopg://")

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=URL, TRUSTED_HOSTS=["127.0.0.1"], SIDEARM_HEALTH_TIMEOUT=0.5
)
db = SQLAlchemy(app)
arm = Sidearm(app)
arm.use(db)
arm.use(create_engine(URL))
arm.use(sessionmaker(create_engine(URL)))
arm.use(SQLite(FOLDER / "file.db"))
arm.use(redis.Redis.from_url(os.environ["REDIS"]))
pool = ConnectionPool(DATABASE, min_size=1, max_size=2, open=False)


@arm.resource
def get_by_hand() -> Iterator[Any]:
    with psycopg.connect(DATABASE) as connection:
        yield connection


@arm.resource
def pooled() -> Iterator[Any]:
    pool.open()
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


@arm.resource
def of_a_request() -> Iterator[str]:
    yield request.headers["X-Only-Then"]


@arm.health_check
def own() -> bool:
    mark = FOLDER / "ill"
    word = mark.read_text() if mark.exists() else ""
    if word == "raise":
        raise ValueError("ill")
    return word != "false"


@app.before_request
def ask_for_a_log_in() -> None:
    abort(401, f"{request.host} is private")  # a host that is not trusted is refused here


@app.get("/")
def index() -> str:
    return "private"
