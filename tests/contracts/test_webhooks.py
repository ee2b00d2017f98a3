"""Q1: a webhook reaches its view signed, in time and once; what else comes reaches nothing."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, abort, request
from flask.views import MethodView
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect

from sidearm import Delivery, SettingError, Sidearm, verify_webhook
from sidearm.bodies import BadDelivery
from sidearm.bodies.schemes import SCHEMES
from sidearm.exceptions import NoSpentTokens
from sidearm.resources.sqlite import SQLite
from sidearm.signing import CREATE_SPENT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 120.0  # seconds for a lock
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS = {
    "standard": STANDARD,
    "github": "It's a Secret to Everybody",
    "stripe": "whsec_test_secret",
}
OTHERS = {
    "standard": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "github": "another secret of sixteen bytes",
    "stripe": "whsec_another_secret",
}
WEBHOOKS = {name: {"scheme": name, "secrets": [secret]} for name, secret in SECRETS.items()}
BODY = b'{"id": "evt_1", "object": "event", "amount": 5, "pending_webhooks": 1}'
CHANGED = BODY.replace(b"5", b"500")

# As published: by the specification's own tests; in GitHub's documentation; and, since Stripe
# publishes none, made by its library (stripe 16.1, WebhookSignature.generate_signature_header).
VECTORS: dict[str, tuple[bytes, dict[str, str], str, float]] = {
    "standard": (
        b'{"test": 2432232314}',
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
    ),
    "github": (
        b"Hello, World!",
        {
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": "sha256="
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        },
        "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        0,
    ),
    "stripe": (
        b'{"id": "evt_test_webhook", "object": "event"}',
        {
            "Stripe-Signature": "t=1614265330,"
            "v1=64776382e3b272a50ff9d6821bb74452794757d5dd79f1b091f36be25190d080"
        },
        "evt_test_webhook",
        1614265330,
    ),
}
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


class Site:
    """An application with a view for each scheme, over a SQLite file.

    Attributes:
        acted: The ids of the deliveries that the views were called with.
    """

    def __init__(self, path: Path, webhooks: Any = None) -> None:
        self.path = path
        self.app = app = Flask("site")
        app.config.update(SECRET_KEY="for tests only, and long enough")
        app.config["SIDEARM_WEBHOOKS"] = webhooks or WEBHOOKS
        self.arm = Sidearm()
        self.get_database = self.arm.use(SQLite(path, timeout=PATIENCE))
        self.arm.init_app(app)
        self.acted: list[Delivery] = []
        self.answer: Callable[[], Any] = lambda: ("acted", 202)
        for name in app.config["SIDEARM_WEBHOOKS"]:
            view = verify_webhook(name)(self.hook)
            app.add_url_rule(f"/{name}", name, view, methods=["POST"])
        self.client = app.test_client()

    def hook(self, delivery: Delivery) -> Any:
        self.get_database().execute("INSERT INTO acts VALUES (?)", (delivery.id,))
        self.acted.append(delivery)
        return self.answer()

    def headers(self, name: str, body: bytes = BODY, secret: str = "", **options: Any) -> Any:
        source = self.app.extensions["sidearm"].webhooks[name].scheme
        scheme = type(source)([secret or SECRETS[source.name]], name)
        return scheme.sign(body, **{"now": time.time(), "id": "msg_1", **options})

    def send(self, name: str, body: bytes = BODY, **options: Any) -> Any:
        return self.client.post(f"/{name}", data=body, headers=self.headers(name, body, **options))

    def rows(self, table: str = "acts") -> int:
        with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection:
            ((found,),) = connection.execute(f"SELECT count(*) FROM {table}")
        return int(found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "hooks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{CREATE_SPENT_TOKENS} CREATE TABLE acts (id TEXT);")
    return path


@pytest.fixture
def site(path: Path) -> Site:
    return Site(path)


# Signatures.


@EVERY_SCHEME
def test_q1_published_vectors_verify(scheme: str) -> None:
    """And with a byte changed in body, secret or signature they do not."""
    body, headers, id_, at = VECTORS[scheme]
    signer = SCHEMES[scheme]([SECRETS[scheme]], "x")
    assert signer.verify(headers, body, now=at, tolerance=1).id == id_
    assert signer.sign(body, now=at, id=id_).items() <= headers.items()
    changed = {**headers}
    name = next(each for each in headers if "ignature" in each)
    changed[name] = headers[name][:-2] + ("A=" if headers[name][-2:] != "A=" else "B=")
    other = SCHEMES[scheme]([OTHERS[scheme]], "x")
    for verify, given, sent in (
        (signer, headers, body + b" "),
        (signer, changed, body),
        (other, headers, body),
    ):
        with pytest.raises(BadDelivery):
            verify.verify(given, sent, now=at, tolerance=1)


@EVERY_SCHEME
def test_q1_a_signed_delivery_reaches_the_view(site: Site, scheme: str) -> None:
    """With its id, its time if that is signed, and its body byte by byte."""
    assert site.send(scheme).status_code == 202
    (delivery,) = site.acted
    assert delivery.source == scheme
    assert delivery.id == ("evt_1" if scheme == "stripe" else "msg_1")
    assert delivery.body == BODY
    assert delivery.json()["amount"] == 5
    assert (delivery.timestamp is None) == (scheme == "github")
    if delivery.timestamp is not None:
        assert abs(delivery.timestamp.timestamp() - time.time()) < 60
    assert BODY.decode() not in repr(delivery)
    assert site.rows() == 1


@EVERY_SCHEME
def test_q1_every_secret_of_the_list_counts(path: Path, scheme: str) -> None:
    """While a secret is changed both do, in any order; afterwards the old one does not."""
    old, new = SECRETS[scheme], OTHERS[scheme]
    for number, secrets in enumerate(([old, new], [new, old], [new])):
        site = Site(path, {"s": {"scheme": scheme, "secrets": secrets}})
        for secret in (old, new):
            id_ = f"{number}-{secret == new}"
            body = json.dumps({"id": id_}).encode()
            expected = 202 if secret in secrets else 403
            assert site.send("s", body, secret=secret, id=id_).status_code == expected


def test_q1_several_signatures_of_one_delivery(site: Site) -> None:
    """While *they* change a secret, senders sign with both; other versions stand beside."""
    for scheme, name, form in (
        ("standard", "webhook-signature", "v1a,AAAA {other} v2,xyz {right}"),
        ("stripe", "Stripe-Signature", "{right},{other},v0=ab"),
    ):
        right = site.headers(scheme)
        other = site.headers(scheme, secret=OTHERS[scheme])[name]
        other = other.partition(",")[2] if scheme == "stripe" else other
        headers = {**right, name: form.format(right=right[name], other=other)}
        assert site.client.post(f"/{scheme}", data=BODY, headers=headers).status_code == 202
        headers[name] = form.format(right=other, other=other)
        assert site.client.post(f"/{scheme}", data=BODY, headers=headers).status_code == 403


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
def test_q1_a_delivery_counts_within_the_tolerance(path: Path, scheme: str) -> None:
    """Neither older nor newer; in seconds, 300 unless the source says otherwise."""
    webhooks = {
        "usual": {"scheme": scheme, "secrets": [SECRETS[scheme]]},
        "patient": {"scheme": scheme, "secrets": [SECRETS[scheme]], "tolerance": 9000},
    }
    site = Site(path, webhooks)
    for name, limit in (("usual", 300), ("patient", 9000)):
        for away in (-1, 1):
            assert site.send(name, now=time.time() + away * (limit + 60)).status_code == 403
        assert not site.acted
    assert site.send("usual", now=time.time() - 200).status_code == 202
    assert site.send("patient", now=time.time() + 8900).status_code == 202


HOSTILE = {
    "empty": "",
    "blank": " ",
    "latin-1": "sha256=\xe9",
    "no value": "sha256=",
    "no signature": "v1,",
    "another algorithm": "sha1=757107ea0eb2509fc211221cce984b8a37570b6d",
    "another version": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    "8 KiB": "a" * 8192,
    "8 KiB of commas": "," * 8192,
    "no base64": "v1,@@@@",
    "padding": "v1,====",
    "no pairs": "t,v1",
    "equal signs": "t=1=2,v1==",
    "negative": "-1",
    "huge": "9" * 400,
    "a float": "1e400",
    "nan": "nan",
    "underscores": "1_614_265_330",
    "other digits": "\u0661\u0662".encode().decode("latin-1"),
    "a full stop": "msg.1",
    "twice": "{right},{right}",
    "stripe's negative": "t=-5,v1=ab",
    "stripe's huge": f"t={'9' * 400},v1=ab",
    "stripe without a time": "v1=ab",
    "stripe's two times": "t=1614265330,{right}",
}


def headers_of() -> Iterator[Any]:
    """Each header of each scheme, with each hostile value, and without any."""
    for scheme in SCHEMES:
        for header in SCHEMES[scheme]([SECRETS[scheme]], "x").sign(b"{}", now=1):
            for kind, value in {**HOSTILE, "missing": None}.items():
                # What GitHub calls a delivery is signed by nobody: any text is an id.
                if header != "X-GitHub-Delivery" or kind in {"empty", "blank", "missing", "8 KiB"}:
                    yield pytest.param(scheme, header, value, id=f"{header}-{kind}")


@pytest.mark.parametrize(("scheme", "header", "value"), list(headers_of()))
def test_q1_every_malformed_header_is_the_same_403(
    site: Site, scheme: str, header: str, value: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing runs, no connection is claimed, nothing says which part was wrong (C24)."""
    caplog.set_level(logging.INFO, "sidearm.bodies")
    forged = site.client.post(
        f"/{scheme}", data=BODY, headers=site.headers(scheme, secret=OTHERS[scheme])
    )
    headers = site.headers(scheme)
    right = headers.pop(header)
    if value is not None:
        headers[header] = value.format(right=right) if "{" in value else value
    answer = site.client.post(f"/{scheme}", data=BODY, headers=headers)
    assert answer.status_code == 403
    assert answer.data == forged.data
    assert not site.acted
    assert site.rows("sidearm_spent_tokens") == 0
    assert not any(record.levelno > logging.INFO for record in caplog.records)
    assert len(caplog.records) == 2


def test_q1_an_id_with_a_full_stop_is_refused(site: Site) -> None:
    """What is signed is id, time and body with full stops between: another split is another id."""
    assert site.send("standard", id="msg.1").status_code == 403
    assert not site.acted


def test_q1_a_body_is_compared_byte_by_byte(site: Site) -> None:
    """Also where it is no text."""
    for scheme in ("standard", "github"):
        body = bytes(range(256))
        assert site.send(scheme, body).status_code == 202
        assert site.acted[-1].body == body
        answer = site.client.post(
            f"/{scheme}", data=body + b"\n", headers=site.headers(scheme, body)
        )
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"id": 5}', b'{"id": "\xff"}', b"[" * 9999]
)
def test_q1_a_signed_body_that_is_no_event_is_400(site: Site, body: bytes) -> None:
    """Stripe's id is in the body; a view that reads JSON gets the same for what is none."""
    assert site.send("stripe", body).status_code == 400
    site.answer = lambda: site.acted[-1].json(dict[str, str]) and ""
    if body != b"{}":
        assert site.send("standard", body).status_code == 400
        assert site.rows() == 0


def test_q1_the_comparison_takes_constant_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ``hmac.compare_digest`` that decides, of every signature, and nothing else."""
    import hmac

    compared: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest

    def watched(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for scheme in SCHEMES:
        compared.clear()
        assert site.send(scheme).status_code == 202
        assert len(compared) == 1
        compared.clear()
        assert site.send(scheme, secret=OTHERS[scheme]).status_code == 403
        assert len(compared) == 1
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: False)
    for scheme in SCHEMES:
        assert site.send(scheme).status_code == 403


# Once.


@EVERY_SCHEME
def test_q1_a_delivery_acts_once_and_repeats_are_answered_2xx(site: Site, scheme: str) -> None:
    """Signed anew, as senders do when they try again; and for one source at a time."""
    assert site.send(scheme).status_code == 202
    for seconds in (0, 100):
        answer = site.send(scheme, now=time.time() + seconds)
        assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert site.rows() == len(site.acted) == 1
    for other in SCHEMES:
        assert site.send(other).status_code == (200 if other == scheme else 202)


@EVERY_SCHEME
@pytest.mark.parametrize("how", ["raises", "aborts", "dooms"])
def test_q1_after_a_rollback_it_can_be_delivered_again(site: Site, scheme: str, how: str) -> None:
    """What acted is saved with what it did, or neither is (C25)."""

    def fail() -> Any:
        if how == "raises":
            raise LookupError
        if how == "aborts":
            abort(503)
        from sidearm import current_task

        current_task.doom()
        return "doomed"

    site.answer, answer = fail, site.answer
    assert site.send(scheme).status_code == {"raises": 500, "aborts": 503, "dooms": 200}[how]
    assert site.rows() == site.rows("sidearm_spent_tokens") == 0
    site.answer = answer
    assert site.send(scheme).status_code == 202
    assert site.send(scheme).status_code == 200
    assert site.rows() == 1


@EVERY_SCHEME
def test_q1_the_same_id_with_another_content_is_refused_and_logged(
    site: Site, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """409, since it is no repeat, and nothing that may act (C25)."""
    assert site.send(scheme).status_code == 202
    assert site.send(scheme, CHANGED).status_code == 409
    assert site.rows() == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "another content" in record.getMessage()
    assert site.send(scheme).status_code == 200


@pytest.mark.parametrize(
    "other", [b"1e999", b'"\xff"', b"9" * 5000], ids=["huge", "no text", "many digits"]
)
def test_q1_what_an_events_id_is_read_past_may_be_no_json_either(site: Site, other: bytes) -> None:
    """A number that JSON can write and nobody can hold, and the like: 400, not an error of ours."""
    assert site.send("stripe", b'{"id": "evt_7", "other": ' + other + b"}").status_code == 400
    assert site.acted == []


def test_q1_what_stripe_counts_while_it_delivers_makes_no_other_event(site: Site) -> None:
    """``pending_webhooks`` is lower when an event is sent again; the order of keys is nobody's."""
    assert site.send("stripe").status_code == 202
    event = json.loads(BODY) | {"pending_webhooks": 0}
    again = json.dumps(dict(reversed(event.items()))).encode()
    assert site.send("stripe", again).status_code == 200


def test_q1_a_hundred_at_once_act_once(site: Site) -> None:
    """In threads, on SQLite; ``tests/integration`` has a thousand on PostgreSQL (C25)."""
    statuses: list[int] = []

    def send() -> None:
        for _ in range(10):
            answer = site.app.test_client().post(
                "/standard", data=BODY, headers=site.headers("standard")
            )
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(statuses) == [200] * 99 + [202]
    assert site.rows() == 1


def test_q1_without_once_every_delivery_reaches_the_view(path: Path) -> None:
    """For a view that tells repeats apart itself; no database is needed then."""
    app = Flask("stateless")
    app.config["SIDEARM_WEBHOOKS"] = WEBHOOKS
    Sidearm(app)
    site = Site(path)

    @app.post("/hook")
    @verify_webhook("standard", once=False)
    async def hook(delivery: Delivery) -> str:
        return delivery.id

    for _ in range(2):
        answer = app.test_client().post("/hook", data=BODY, headers=site.headers("standard"))
        assert answer.text == "msg_1"


def test_q1_where_it_is_kept_is_the_only_database_or_the_one_named(path: Path) -> None:
    """Without one, or with two, the error says what to name."""
    app = Flask("several")
    app.config["SIDEARM_WEBHOOKS"] = WEBHOOKS
    arm = Sidearm(app)
    chosen = arm.use(SQLite(path))
    site = Site(path)
    app.post("/one")(verify_webhook("standard")(lambda delivery: delivery.id))
    client = app.test_client()
    assert client.post("/one", data=BODY, headers=site.headers("standard")).text == "msg_1"
    arm.use(SQLite(":memory:"))
    app = Flask("several")
    app.config["SIDEARM_WEBHOOKS"] = WEBHOOKS
    app.testing = True
    arm.init_app(app)
    client = app.test_client()
    app.post("/any", endpoint="any")(verify_webhook("github")(lambda delivery: delivery.id))
    app.post("/named", endpoint="named")(
        verify_webhook("github", once=chosen)(lambda delivery: delivery.id)
    )
    headers = site.headers("github")
    with pytest.raises(NoSpentTokens, match=r"@verify_webhook\('github', once=get_session\)"):
        client.post("/any", data=BODY, headers=headers)
    assert client.post("/named", data=BODY, headers=headers).text == "msg_1"
    assert client.post("/named", data=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("commits", [True, False])
def test_q1_who_commits_by_hand_is_told_of_a_forgotten_commit(path: Path, *, commits: bool) -> None:
    """Else the sender would hear that all is well, and the delivery could act again."""
    app = Flask("by hand")
    app.config["SIDEARM_WEBHOOKS"] = WEBHOOKS
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
    db = SQLAlchemy(app)
    arm = Sidearm(app)
    arm.use(db)

    @app.post("/hook")
    @verify_webhook("standard", once=db)
    def hook(delivery: Delivery) -> str:
        if commits:
            db.session.commit()
        return "acted"

    site = Site(path)
    statuses = [
        app.test_client().post("/hook", data=BODY, headers=site.headers("standard")).status_code
        for _ in range(2)
    ]
    assert statuses == ([200, 200] if commits else [500, 500])
    assert site.rows("sidearm_spent_tokens") == (2 if commits else 0)
    with app.app_context():
        db.engine.dispose()


def test_q1_rows_of_old_deliveries_go(path: Path) -> None:
    """They are remembered for ``keep`` seconds, 30 days by default, and a minute."""
    now = time.time()
    for name, options, days in (("usual", {}, 30), ("brief", {"keep": 86400}, 1)):
        webhooks = {name: {"scheme": "github", "secrets": [SECRETS["github"]], **options}}
        Site(path, webhooks).send(name)
        with closing(sqlite3.connect(path)) as connection:
            (ends,) = connection.execute("SELECT max(expires) FROM sidearm_spent_tokens").fetchone()
            connection.execute("DELETE FROM sidearm_spent_tokens")
            connection.commit()
        assert now - 1 <= ends - days * 86400 - 60 <= time.time() + 1


# Views and settings.


def test_q1_webhooks_in_blueprints_and_class_based_views(site: Site) -> None:
    """``delivery`` is one more keyword argument, beside those of the rule."""
    blueprint = Blueprint("hooks", __name__)

    @blueprint.post("/<int:shop>/hook")
    @verify_webhook("standard")
    def hook(shop: int, delivery: Delivery) -> str:
        return f"{shop} {delivery.id} {request.get_data() == delivery.body}"

    class Hook(MethodView):
        @verify_webhook("github")
        def post(self, delivery: Delivery) -> str:
            return f"{type(self).__name__} {delivery.id}"

    site.app.register_blueprint(blueprint)
    site.app.add_url_rule("/view", view_func=Hook.as_view("view"))
    post = site.client.post
    answer = post("/7/hook", data=BODY, headers=site.headers("standard", id="a"))
    assert answer.text == "7 a True"
    answer = post("/view", data=BODY, headers=site.headers("github", id="b"))
    assert answer.text == "Hook b"


def test_q1_the_body_has_a_limit(site: Site) -> None:
    """A mebibyte, unless the decorator says otherwise; told or not."""
    site.app.post("/more", endpoint="more")(
        verify_webhook("github", max_content_length=25 << 20)(site.hook)
    )
    body = b" " * (1 << 20)
    assert site.send("github", body).status_code == 202
    assert site.send("github", body + b" ").status_code == 413
    headers = site.headers("github", body * 2, id="msg_2")
    answer = site.client.post(
        "/more",
        input_stream=io.BytesIO(body * 2),
        headers={**headers, "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 202


def test_q1_under_csrf_protect_the_error_says_how_to_exempt_the_view(site: Site) -> None:
    """Senders have no token; exempted, it works."""
    site.app.testing = True
    csrf = CSRFProtect(site.app)
    site.app.post("/exempt", endpoint="exempt")(
        csrf.exempt(verify_webhook("github")(hook_of(site)))
    )
    with pytest.raises(RuntimeError, match=r"csrf\.exempt"):
        site.send("standard")
    answer = site.client.post("/exempt", data=BODY, headers=site.headers("github"))
    assert answer.text == "msg_1"


def hook_of(site: Site) -> Any:
    """A view that no other test exempts."""

    def only_this_one(delivery: Delivery) -> str:
        return delivery.id

    return only_this_one


def test_q1_a_source_that_no_setting_names_is_refused_at_start() -> None:
    """When the view is added, or Sidearm installed after it (C24: no secret configured)."""

    def hook(delivery: Delivery) -> str:
        return delivery.id

    class Hook(MethodView):
        @verify_webhook("pay")
        def post(self, delivery: Delivery) -> str:
            return delivery.id

    for webhooks in (None, {}, WEBHOOKS):
        for view in (verify_webhook("pay")(hook), Hook.as_view("hook")):
            app = Flask("none")
            app.config["SIDEARM_WEBHOOKS"] = webhooks
            app.add_url_rule("/early", "early", view, methods=["POST"])
            with pytest.raises(SettingError, match=r"SIDEARM_WEBHOOKS\['pay'\]"):
                Sidearm(app)
            app = Flask("none")
            app.config["SIDEARM_WEBHOOKS"] = webhooks
            Sidearm(app)
            with pytest.raises(SettingError, match=r"SIDEARM_WEBHOOKS\['pay'\]"):
                app.add_url_rule("/late", "late", view, methods=["POST"])


SECRET = "not-to-be-shown-anywhere-in-a-log"
WRONG: dict[str, tuple[Any, str]] = {
    "no table": (f"{SECRET}", "SIDEARM_WEBHOOKS is of type str"),
    "a list": ([SECRET], "SIDEARM_WEBHOOKS is of type list"),
    "no options": ({"x": SECRET}, r"SIDEARM_WEBHOOKS\['x'\] is of type str"),
    "no secrets": ({"x": {"scheme": "github"}}, r"\['x'\] is of type dict"),
    "no scheme": ({"x": {"secrets": [SECRET]}}, r"\['x'\] is of type dict"),
    "another scheme": (
        {"x": {"scheme": "gitlab", "secrets": [SECRET]}},
        r"\['x'\]\['scheme'\] is 'gitlab'\. Give one of 'standard', 'github', 'stripe'",
    ),
    "no list": ({"x": {"scheme": "github", "secrets": SECRET}}, r"\['secrets'\] is of type str"),
    "empty": ({"x": {"scheme": "github", "secrets": []}}, r"\['secrets'\] is empty"),
    "numbers": ({"x": {"scheme": "github", "secrets": [SECRET, 5]}}, r"\['secrets'\] is of type"),
    "blank": ({"x": {"scheme": "github", "secrets": [""]}}, r"\['secrets'\]\[0\] is .*0 bytes"),
    "short": (
        {"x": {"scheme": "stripe", "secrets": [SECRET, "short"]}},
        r"\['secrets'\]\[1\] is a text of 5 characters\. It has 5 bytes",
    ),
    "no base64": (
        {"x": {"scheme": "standard", "secrets": [f"whsec_{SECRET}"]}},
        r"\['secrets'\]\[0\] is a text of 39 characters\. Give 'whsec_'",
    ),
    "16 bytes": (
        {"x": {"scheme": "standard", "secrets": ["whsec_AAAAAAAAAAAAAAAAAAAAAA=="]}},
        r"\['secrets'\]\[0\]",
    ),
    "a time that nobody signs": (
        {"x": {"scheme": "github", "secrets": [SECRET], "tolerance": 5}},
        r"\['tolerance'\] is 5.*Leave it out",
    ),
    "words": (
        {"x": {"scheme": "stripe", "secrets": [SECRET], "tolerance": "5m"}},
        r"\['tolerance'\] is '5m'\. Give seconds",
    ),
    "forgotten before it ends": (
        {"x": {"scheme": "stripe", "secrets": [SECRET], "tolerance": 3600, "keep": 7199}},
        r"\['keep'\] is 7199\.0\. Give at least 7200 seconds, twice the tolerance",
    ),
    "no time": ({"x": {"scheme": "github", "secrets": [SECRET], "keep": 0}}, r"\['keep'\] is 0"),
    "unknown": (
        {"x": {"scheme": "github", "secrets": [SECRET], "secret": SECRET}},
        r"\['secret'\] is of type str\. There is no such option",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_q1_a_wrong_setting_fails_at_start_by_its_name(name: str) -> None:
    """And the message shows no secret."""
    value, message = WRONG[name]
    app = Flask("wrong")
    app.config["SIDEARM_WEBHOOKS"] = value
    with pytest.raises(SettingError, match=message) as caught:
        Sidearm(app)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.value)


def test_q1_settings_show_no_secret(site: Site) -> None:
    """Somebody may log them."""
    state = site.app.extensions["sidearm"]
    for secret in SECRETS.values():
        assert secret not in repr(state.settings)


@pytest.mark.parametrize("source", [None, "", 5, lambda: ""])
def test_q1_the_decorator_wants_the_name_of_a_source(source: Any) -> None:
    """Not with the first request."""
    with pytest.raises(TypeError, match="SIDEARM_WEBHOOKS"):
        verify_webhook(source)
