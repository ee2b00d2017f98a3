"""S1 and S3: tokens, their keys, and the URL converter."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os
import random
import string
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from flask import Flask, url_for
from hypothesis import given, strategies
from itsdangerous.encoding import base64_decode, base64_encode

from sidearm import Sidearm, SidearmError
from sidearm.cli import sidearm as command
from sidearm.exceptions import SecretKeyError, TokenRuleError
from sidearm.signing import BadToken, ExpiredToken, StaleToken, TokenError
from sidearm.signing.keys import HMACSHA256128

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from sidearm.signing import TokenKind

KEY, OTHER_KEY = "a key that is long enough", "another key of that kind"
ALPHABET = string.ascii_letters + string.digits + "-_."
#: How many altered tokens one run tries; ``make test-long`` tries all that are promised.
MUTATIONS = int(os.environ.get("MUTATIONS", "20000"))


@dataclasses.dataclass
class Seat:
    row: int
    name: str


class Clock:
    """``time.time``, which a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def kind(arm: Sidearm, app: Flask) -> TokenKind[int]:
    """A kind that ends after an hour, of the only application."""
    return arm.token("unsubscribe", int, max_age=3600)


def made(**config: Any) -> Flask:
    app = Flask("testapp")
    app.config.update(config)
    return app


def with_key(key: Any, fallbacks: Any = None, **options: Any) -> tuple[Flask, TokenKind[int]]:
    """An application of its own, with the same kind; who drops it cannot use the kind."""
    app = made(SECRET_KEY=key, SECRET_KEY_FALLBACKS=fallbacks)
    return app, Sidearm(app).token("unsubscribe", int, **{"max_age": 3600, **options})


def refused(kind: TokenKind[Any], text: str) -> bool:
    try:
        kind.load(text)
    except TokenError:
        return True
    return False


# What a token carries.


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (int, 0),
        (int, -(2**63)),
        (int, 2**64 - 1),
        (str, ""),
        (str, "x" * 1000),
        (str, "Grüße, 🧵\n"),
        (uuid.UUID, uuid.UUID(int=2**127 + 5)),
        (dt.date, dt.date(2026, 11, 25)),
        (dt.datetime, dt.datetime(2026, 11, 25, 12, 30, tzinfo=dt.UTC)),
        (Seat, Seat(3, "Ann")),
        (list[Seat], [Seat(1, "a"), Seat(2, "b")]),
        (dict[str, int], {"a": 1}),
        (bool, True),
        (str | None, None),
        (tuple[int, str], (1, "a")),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_s1_id01_what_is_signed_comes_back_equal(
    arm: Sidearm, app: Flask, type_: Any, payload: Any
) -> None:
    """Every kind of payload that is promised, and then some."""
    kind = arm.token("any", type_, max_age=60)
    assert kind.load(kind.sign(payload)) == payload


@pytest.mark.parametrize("user_id", [0, 42, 2**31, 2**63 - 1])
def test_s1_a_token_for_a_user_is_at_most_60_characters_long(
    arm: Sidearm, app: Flask, database: Any, user_id: int
) -> None:
    """``activate``, for one use, for any user id that a database has."""
    activate = arm.token("activate", int, max_age=timedelta(days=7), single_use=True)
    assert len(activate.sign(user_id)) <= 60


@pytest.mark.parametrize("payload", ["42", None, 4.5, True, 2**70, object()])
def test_s1_what_could_not_come_back_is_not_signed(kind: TokenKind[int], payload: Any) -> None:
    """A wrong type is an error where the link is made, and not at the customer's."""
    with pytest.raises(TypeError, match="'unsubscribe' carry int"):
        kind.sign(payload)


def test_id15_a_token_tells_when_it_was_signed(kind: TokenKind[int], clock: Clock) -> None:
    """And until when it counts."""
    token = kind.inspect(kind.sign(42))
    assert token.payload == 42
    assert token.date_signed == dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)
    assert token.date_expires - token.date_signed == timedelta(hours=1)
    assert token.id is None


# Forgeries.


@pytest.mark.parametrize(
    "change",
    [
        str.swapcase,
        lambda text: text + "A",
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: "A" + text[1:],
        lambda text: text.replace(".", ""),
        lambda text: text.replace(".", ".."),
        lambda text: text[:-1],
        lambda text: text.partition(".")[0],
        lambda text: text.partition(".")[2],
        lambda text: " " + text,
        lambda text: text.replace(".", "%2E"),
        lambda text: "",
        lambda text: ".",
        lambda text: "é" + text,
        lambda text: "\udc80" + text,
        lambda text: text.encode(),
        lambda text: None,
    ],
)
def test_id02_what_differs_is_refused(kind: TokenKind[int], change: Any) -> None:
    """Each as a bad token, and nothing but that."""
    with pytest.raises(BadToken):
        kind.load(change(kind.sign(42)))


def test_id18_another_spelling_of_the_same_bytes_is_refused(kind: TokenKind[int]) -> None:
    """Base64 has sixteen last letters for one signature; fifteen are forgeries."""
    text = kind.sign(42)
    signature = base64_decode(text.rpartition(".")[2])
    spellings = [
        text[:-1] + letter
        for letter in ALPHABET[:-1]
        if base64_decode(text.rpartition(".")[2][:-1] + letter) == signature
    ]
    assert len(spellings) == 16
    assert [each for each in spellings if not refused(kind, each)] == [text]


@given(data=strategies.data(), payload=strategies.integers(0, 2**64 - 1))
def test_s1_any_change_is_refused(data: Any, payload: int) -> None:
    """Some characters are put in place of others, anywhere."""
    app, kind = with_key(KEY)
    assert app.secret_key
    text = kind.sign(payload)
    start = data.draw(strategies.integers(0, len(text)))
    end = data.draw(strategies.integers(start, len(text)))
    changed = text[:start] + data.draw(strategies.text(max_size=6)) + text[end:]
    assert (changed == text) is not refused(kind, changed)


@given(cut=strategies.integers(1, 60), payload=strategies.integers(0, 2**32))
def test_s1_truncation_is_refused(cut: int, payload: int) -> None:
    """From either end."""
    app, kind = with_key(KEY)
    assert app.secret_key
    text = kind.sign(payload)
    assert refused(kind, text[:-cut])
    assert refused(kind, text[cut:])


def test_s1_none_of_many_mutated_tokens_is_accepted(kind: TokenKind[int]) -> None:
    """One to four letters of a token are changed, dropped, doubled or swapped."""
    chance = random.Random(12)
    text = kind.sign(42)
    accepted = 0
    for _ in range(MUTATIONS):
        letters = list(text)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(letters))
            how = chance.randrange(4)
            if how == 0:
                letters[place] = chance.choice(ALPHABET)
            elif how == 1:
                del letters[place]
            elif how == 2:
                letters.insert(place, letters[place])
            else:
                letters[place - 1], letters[place] = letters[place], letters[place - 1]
        mutated = "".join(letters)
        accepted += mutated != text and not refused(kind, mutated)
    assert accepted == 0


def test_id05_a_token_for_one_purpose_counts_for_no_other(
    arm: Sidearm, kind: TokenKind[int]
) -> None:
    """Although key, type and age are the same."""
    other = arm.token("activate", int, max_age=3600)
    assert other.load(other.sign(42)) == 42
    with pytest.raises(BadToken):
        kind.load(other.sign(42))


def test_id03_the_log_learns_more_than_the_client(
    arm: Sidearm, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused payload, and its date (ID-14), are on the exception, and in no text."""
    kind = arm.token("names", str, max_age=60)
    text = kind.sign("top secret")
    with caplog.at_level(logging.INFO, "sidearm.signing"), pytest.raises(BadToken) as caught:
        kind.load(text[:-2] + "AA")
    assert b"top secret" in caught.value.payload
    assert caught.value.date_signed is not None
    assert caught.value.code == 404
    assert caught.value.purpose == "names"
    assert "'names'" in caplog.text
    for shown in (str(caught.value), repr(caught.value), caught.value.get_body(), caplog.text):
        assert "secret" not in shown
        assert text[:20] not in shown


def test_id04_a_payload_that_cannot_be_read_is_a_bad_token(arm: Sidearm, app: Flask) -> None:
    """Rightly signed, when the kind still had another type; the cause is on the exception."""
    text = Sidearm(other := made(SECRET_KEY=app.secret_key)).token("k", str, max_age=9).sign("x")
    with pytest.raises(BadToken) as caught:
        arm.token("k", int, max_age=9).load(text)
    assert isinstance(caught.value.__cause__, msgspec.ValidationError)
    assert other.secret_key


def test_id12_id13_what_has_no_time_is_refused(kind: TokenKind[int], app: Flask) -> None:
    """Signed by our own key, but shorter than a head, or with another layout."""
    from sidearm.signing.keys import signers_for

    signer = signers_for(app, "sidearm.token.unsubscribe", "the test")[0]
    for data in (b"", b"\x04", b"\x04\xff\xff\xff", b"\xff" * 9, b"\x00" * 40):
        body = base64_encode(data)
        with pytest.raises(TokenError):
            kind.load((body + b"." + signer.get_signature(body)).decode())


def test_id17_nothing_unpickles() -> None:
    """No module of the room knows how."""
    import sidearm.signing

    modules = list(Path(sidearm.signing.__file__).parent.glob("*.py"))
    assert len(modules) > 5
    for module in modules:
        assert "pickle" not in module.read_text()


def test_s1_signatures_are_hmac_sha_256_128() -> None:
    """RFC 4231, test case 2, cut as RFC 4868, section 2.6 has it."""
    made_one = HMACSHA256128().get_signature(b"Jefe", b"what do ya want for nothing?")
    assert made_one.hex() == "5bdcc146bf60754e6a042426089575c7"


# Age.


@pytest.mark.parametrize(
    ("after", "counts"),
    [(0, True), (3599, True), (3600, True), (3601, False), (10**9, False)],
)
def test_id08_id09_age(kind: TokenKind[int], clock: Clock, after: int, counts: bool) -> None:
    """The limit itself is still good; one second later it is over, and the error tells more."""
    text = kind.sign(42)
    clock.now += after
    if counts:
        assert kind.load(text) == 42
        return
    with pytest.raises(ExpiredToken) as caught:
        kind.load(text)
    assert caught.value.code == 410
    assert caught.value.payload == 42  # ID-10: may be shown
    assert caught.value.date_signed == dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)
    assert caught.value.date_expired == dt.datetime.fromtimestamp(1_800_003_600, dt.UTC)
    assert "42" not in str(caught.value)


def test_id11_signed_in_the_future(kind: TokenKind[int], clock: Clock) -> None:
    """As expired, with the date; a clock that is a little ahead does no harm."""
    text = kind.sign(42)
    clock.now -= 5
    assert kind.load(text) == 42
    clock.now -= 1
    with pytest.raises(ExpiredToken) as caught:
        kind.load(text)
    assert caught.value.date_signed == dt.datetime.fromtimestamp(1_800_000_000, dt.UTC)


def test_c18_a_token_can_end_sooner_than_its_kind_and_not_later(
    kind: TokenKind[int], clock: Clock
) -> None:
    """Sixty seconds are over after 61; two days are refused when issued."""
    short, usual = kind.sign(42, max_age=60), kind.sign(42)
    with pytest.raises(ValueError, match="172800 seconds, and its kind allows 3600"):
        kind.sign(42, max_age=timedelta(days=2))
    clock.now += 60
    assert kind.load(short) == 42
    clock.now += 1
    with pytest.raises(ExpiredToken):
        kind.load(short)
    assert kind.load(usual) == 42
    spliced = usual.partition(".")[0] + "." + short.partition(".")[2]
    with pytest.raises(BadToken):
        kind.load(spliced)


def test_s1_a_kind_whose_age_was_changed(clock: Clock) -> None:
    """A shorter age counts at once, a longer one revives nothing."""
    (app, short), (other, long) = (with_key(KEY, max_age=age) for age in (60, 3600))
    assert app is not other
    of_short, of_long = short.sign(1), long.sign(2)
    clock.now += 61
    assert long.load(of_long) == 2
    with pytest.raises(ExpiredToken):
        short.load(of_long)
    with pytest.raises(ExpiredToken):
        long.load(of_short)


@pytest.mark.parametrize("max_age", [0, -1, float("nan"), float("inf"), timedelta(0), 2**32])
def test_s1_a_maximum_age_is_above_zero(arm: Sidearm, app: Flask, max_age: Any) -> None:
    """At the line that declares it, or signs."""
    with pytest.raises(ValueError, match="max_age of 'k'"):
        arm.token("k", int, max_age=max_age)
    with pytest.raises(ValueError, match="max_age of a token for 'ok'"):
        arm.token("ok", int, max_age=60).sign(1, max_age=max_age)


@pytest.mark.parametrize("max_age", ["60", None, True])
def test_s1_a_maximum_age_is_a_number(arm: Sidearm, app: Flask, max_age: Any) -> None:
    """Not what only looks like one."""
    with pytest.raises(TypeError, match="Give seconds, or a datetime"):
        arm.token("k", int, max_age=max_age)


# Keys.


def test_id06_keys_rotate() -> None:
    """A former key verifies while it is listed; the present one signs."""
    old_app, old = with_key(OTHER_KEY)
    assert old_app.secret_key
    app, kind = with_key(KEY, [OTHER_KEY])
    text = old.sign(42)
    assert kind.load(text) == 42
    with pytest.raises(BadToken):
        old.load(kind.sign(42))
    app.config["SECRET_KEY_FALLBACKS"].clear()
    with pytest.raises(BadToken):
        kind.load(text)
    app.config["SECRET_KEY"] = OTHER_KEY
    assert kind.load(text) == 42


@pytest.mark.parametrize("key", [KEY, KEY.encode()])
def test_s1_a_key_is_text_or_bytes(key: Any) -> None:
    """As Flask has it."""
    app, kind = with_key(key)
    assert app.secret_key
    assert kind.load(kind.sign(42)) == 42


def test_s1_without_a_key_a_kind_is_an_error_at_start() -> None:
    """Whichever is first, the kind or the application; it says what to do."""
    with pytest.raises(SecretKeyError, match=r"SECRET_KEY is not set.*secrets.token_hex") as caught:
        with_key(None)
    assert isinstance(caught.value, (SidearmError, RuntimeError))
    assert caught.value.key == "SECRET_KEY"
    arm = Sidearm()
    arm.token("k", int, max_age=60)
    with pytest.raises(SecretKeyError, match=r"^SECRET_KEY is not set"):
        arm.init_app(made())
    assert Sidearm(made())  # who signs nothing needs none


@pytest.mark.parametrize(
    ("key", "fallbacks", "message"),
    [
        ("short", None, r"^SECRET_KEY has 5 bytes"),
        (KEY, ["short"], r"^SECRET_KEY_FALLBACKS\[0\] has 5 bytes"),
        (KEY, OTHER_KEY, r"^SECRET_KEY_FALLBACKS is of type str"),
        (KEY, [OTHER_KEY, 7], r"^SECRET_KEY_FALLBACKS\[1\] is of type int"),
        (12345, None, r"^SECRET_KEY is of type int"),
    ],
)
def test_s1_a_wrong_key_is_an_error_at_start_that_does_not_show_it(
    key: Any, fallbacks: Any, message: str
) -> None:
    """Flask would take a text for a list of keys of one letter."""
    with pytest.raises(SecretKeyError, match=message) as caught:
        with_key(key, fallbacks)
    assert "short" not in str(caught.value)
    assert OTHER_KEY not in str(caught.value)


def test_s1_a_key_that_is_taken_away_is_an_error_at_the_first_use() -> None:
    """A setting that was changed later."""
    app, kind = with_key(KEY)
    app.config["SECRET_KEY"] = None
    with pytest.raises(SecretKeyError):
        kind.sign(42)


def test_s1_in_debug_mode_a_short_key_is_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """One; a missing key is an error there too."""
    app = made(SECRET_KEY="dev", DEBUG=True)
    arm = Sidearm(app)
    kind = arm.token("k", int, max_age=60)
    assert kind.load(kind.sign(42)) == 42
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "SECRET_KEY has 3 bytes" in caplog.text
    app.config["SECRET_KEY"] = None
    with pytest.raises(SecretKeyError):
        kind.sign(42)


def test_s1_two_applications_sign_with_their_own_keys() -> None:
    """One kind, whose application is the current one."""
    arm = Sidearm()
    kind = arm.token("k", int, max_age=60)
    apps = [made(SECRET_KEY=key) for key in (KEY, OTHER_KEY)]
    for app in apps:
        arm.init_app(app)
    with apps[0].app_context():
        text = kind.sign(42)
        assert kind.load(text) == 42
    with apps[1].app_context(), pytest.raises(BadToken):
        kind.load(text)
    with pytest.raises(RuntimeError, match="2 applications"):
        kind.sign(42)


def test_s1_threads_share_a_kind(kind: TokenKind[int], app: Flask) -> None:
    """Its keys are made on the first use, by whichever thread comes first."""
    loaded: list[int] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(20)
        loaded.append(kind.load(kind.sign(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(loaded) == list(range(8))


def test_s1_flask_sidearm_keys_tells_how_long_a_key_has_to_stay() -> None:
    """By purpose, with fingerprints in place of keys."""
    app = made(SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=[OTHER_KEY], SIDEARM_SIGNED_URL_MAX_AGE=90)
    arm = Sidearm(app)
    arm.token("reset", str, max_age=timedelta(hours=1, minutes=30))
    arm.token("activate", int, max_age=timedelta(days=40))
    result = app.test_cli_runner().invoke(command, ["keys"])
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines() if line]
    assert [line[1:] for line in lines[1:3]] == [
        ["signs", "SECRET_KEY"],
        ["verifies", "only", "SECRET_KEY_FALLBACKS[0]"],
    ]
    assert len({line[0] for line in lines[1:3]}) == 2
    assert [" ".join(line) for line in lines[4:]] == [
        "for activate 40 days",
        "for reset 1 hour 30 minutes",
        "for signed URLs 1 minute 30 seconds",
        "for session cookies 31 days",
        "for all of it: 40 days",
    ]
    assert KEY not in result.output
    assert OTHER_KEY not in result.output
    assert app.test_cli_runner().invoke(command, ["keys"]).output == result.output


def test_s1_flask_sidearm_keys_without_a_key() -> None:
    """One line that says what to do."""
    app = made()
    Sidearm(app)
    result = app.test_cli_runner().invoke(command, ["keys"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: SECRET_KEY is not set, and flask sidearm keys signs")
    result = made().test_cli_runner().invoke(command, ["keys"])
    assert result.output.startswith("Error: The application 'testapp' has no Sidearm.")


# State.


def test_s2_a_token_bound_to_a_state(arm: Sidearm, app: Flask) -> None:
    """A changed password ends every link that was bound to the old one."""
    hashes = {42: "scrypt:old", 43: "scrypt:old"}
    reset = arm.token("reset", int, max_age=3600, state=hashes.get)
    text = reset.sign(42)
    assert reset.load(text) == 42
    assert b"scrypt" not in base64_decode(text.partition(".")[0])
    hashes[42] = "scrypt:new"
    with pytest.raises(StaleToken) as caught:
        reset.load(text)
    assert caught.value.code == 410
    assert caught.value.payload == 42
    del hashes[42]
    with pytest.raises(BadToken, match="its state is gone"):
        reset.load(text)
    with pytest.raises(ValueError, match="The state of 'reset' is None for 42"):
        reset.sign(42)


def test_s2_a_bound_token_survives_the_rotation_of_keys() -> None:
    """Its state is compared under the key that signed it."""
    old_app, old = with_key(OTHER_KEY, state=lambda _: "hash")
    app, kind = with_key(KEY, [OTHER_KEY], state=lambda _: "hash")
    assert kind.load(old.sign(42)) == 42
    assert old_app is not app


@pytest.mark.parametrize("declared", ["single_use", "state"])
def test_s2_links_from_before_a_kind_was_made_stricter_are_refused(
    arm: Sidearm, app: Flask, database: Any, declared: str
) -> None:
    """They lack what is now asked of them."""
    text = Sidearm(old := made(SECRET_KEY=app.secret_key)).token("k", int, max_age=60).sign(1)
    stricter: dict[str, Any] = {"single_use": True} if declared == "single_use" else {"state": str}
    with pytest.raises(BadToken, match="before its kind was declared as it is now"):
        arm.token("k", int, max_age=60, **stricter).load(text)
    assert old.secret_key


# Declaring.


def test_s1_a_purpose_is_declared_once(arm: Sidearm, kind: TokenKind[int]) -> None:
    """Two kinds of one purpose would take each other's tokens."""
    with pytest.raises(ValueError, match="'unsubscribe' is declared already"):
        arm.token("unsubscribe", str, max_age=60)


@pytest.mark.parametrize("purpose", ["", "with space", "a'b", "a/b", None, "x" * 81])
def test_s1_a_purpose_is_a_name(arm: Sidearm, purpose: Any) -> None:
    """That can stand in a rule."""
    with pytest.raises(ValueError, match="Give a short name"):
        arm.token(purpose, int, max_age=60)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"type_": threading.Thread | threading.Event}, "msgspec reads back"),
        ({"state": "password_hash"}, "Give a function of the payload"),
    ],
)
def test_s1_a_declaration_that_cannot_work(
    arm: Sidearm, app: Flask, wrong: dict[str, Any], message: str
) -> None:
    """At its line."""
    options: dict[str, Any] = {"type_": int, "max_age": 60, **wrong}
    with pytest.raises(TypeError, match=message):
        arm.token("k", options.pop("type_"), **options)


# The converter.


@pytest.fixture
def link(arm: Sidearm, app: Flask, kind: TokenKind[int]) -> Callable[..., str]:
    """Makes links to a view that shows the number it got."""

    @app.route("/leave/<token('unsubscribe'):user_id>", methods=["GET", "POST"])
    def leave(user_id: int) -> str:
        return f"{user_id + 1}"

    def link(user_id: Any = 42) -> str:
        with app.test_request_context():
            return url_for("leave", user_id=user_id)

    return link


def test_s3_url_for_signs_and_the_view_gets_the_payload(
    link: Callable[..., str], client: FlaskClient
) -> None:
    """By any method."""
    url = link(42)
    assert "42" not in url.partition(".")[0]
    assert client.get(url).text == "43"
    assert client.post(url).text == "43"


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url[:-1] + ("A" if url[-1] != "A" else "B"),
        lambda url: url[:-1],
        lambda url: url + "=",
        lambda url: url + "/",
        lambda url: url.replace("/leave/", "/leave/A"),
        lambda url: "/leave/42",
        lambda url: "/leave/.",
        lambda url: "/leave/\xff." + "A" * 22,
        lambda url: "/leave/" + "A" * 100_000 + "." + "A" * 22,
    ],
)
def test_s3_a_forged_code_is_404(
    link: Callable[..., str], client: FlaskClient, change: Callable[[str], str]
) -> None:
    """Nothing of it is shown."""
    answer = client.get(change(link()))
    assert answer.status_code == 404
    assert "unsubscribe" not in answer.text


def test_s3_an_expired_one_is_410(
    link: Callable[..., str], app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """The application's own page may say whose link it was."""
    url = link()
    clock.now += 3601
    answer = client.get(url)
    assert answer.status_code == 410
    assert "expired" in answer.text

    fresh = made(SECRET_KEY=app.secret_key)
    arm = Sidearm(fresh)
    arm.token("unsubscribe", int, max_age=3600)
    fresh.add_url_rule("/leave/<token('unsubscribe'):user_id>", "leave", lambda user_id: "")
    fresh.register_error_handler(
        ExpiredToken, lambda error: (f"Hello {error.payload}, of {error.date_signed:%Y}", 410)
    )
    answer = fresh.test_client().get(url)
    assert (answer.status_code, answer.text) == (410, "Hello 42, of 2027")


def test_s3_a_token_that_was_signed_before_goes_in_as_it_is(
    link: Callable[..., str], kind: TokenKind[int], client: FlaskClient, clock: Clock
) -> None:
    """So that a link can end sooner; another kind's is refused."""
    url = link(kind.sign(42, max_age=60))
    assert client.get(url).text == "43"
    clock.now += 61
    assert client.get(url).status_code == 410
    with pytest.raises(TypeError):
        link("42")


def test_s3_two_tokens_in_one_rule(
    arm: Sidearm, app: Flask, kind: TokenKind[int], client: FlaskClient
) -> None:
    """One forged, and there is no match."""

    @app.get("/<token('unsubscribe'):one>/<token('unsubscribe'):two>")
    def both(one: int, two: int) -> str:
        return f"{one} {two}"

    with app.test_request_context():
        url = url_for("both", one=1, two=2)
    assert client.get(url).text == "1 2"
    assert client.get(url[:-3] + "AAA").status_code == 404


def test_s3_under_a_prefix_and_in_a_blueprint(
    arm: Sidearm, app: Flask, kind: TokenKind[int], client: FlaskClient
) -> None:
    """C15: the link carries the prefix, and works."""
    from flask import Blueprint

    blueprint = Blueprint("mails", __name__, url_prefix="/mails")

    @blueprint.get("/<token('unsubscribe'):user_id>")
    def leave(user_id: int) -> str:
        return str(user_id)

    app.register_blueprint(blueprint)
    with app.test_request_context(base_url="http://localhost/shop"):
        url = url_for("mails.leave", user_id=42)
    assert url.startswith("/shop/mails/")
    assert client.get(url[5:], base_url="http://localhost/shop").text == "42"


def test_s3_a_kind_that_nobody_declared_is_an_error_at_start(app: Flask, kind: Any) -> None:
    """It names the rule and what is known."""
    with pytest.raises(TokenRuleError, match=r"'nobody'.*known: 'unsubscribe'"):
        app.add_url_rule("/<token('nobody'):x>", "x", lambda x: "")


def test_s3_a_converter_of_the_applications_own_stays(arm: Sidearm) -> None:
    """One that it has called ``token`` before."""
    from werkzeug.routing import IntegerConverter

    app = made()
    app.url_map.converters["token"] = IntegerConverter
    arm.init_app(app)
    app.add_url_rule("/<token:x>", "x", lambda x: f"{x!r}")
    assert app.test_client().get("/7").text == "7"


def test_s3_a_state_may_be_read_from_a_resource(
    arm: Sidearm, app: Flask, database: Any, client: FlaskClient
) -> None:
    """The request's task has begun when its URL is matched, and settles once."""

    def state(user_id: int) -> str:
        rows: list[tuple[str]] = database().execute("SELECT text FROM notes").fetchall()
        return rows[0][0] if rows else "none"

    arm.token("reset", int, max_age=60, state=state)

    @app.route("/reset/<token('reset'):user_id>", methods=["GET", "POST"])
    def reset(user_id: int) -> str:
        database().execute("INSERT INTO notes VALUES ('changed')")
        return "reset"

    with app.test_request_context():
        url = url_for("reset", user_id=1)
    assert [client.post(url).status_code for _ in range(2)] == [200, 410]
    assert app.extensions["sidearm"].records[-1].committed is False
