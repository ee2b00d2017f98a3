"""Contract R1 as an application sees it: what a view may return, and what never leaves."""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
import traceback
import weakref
from abc import ABC
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple
from unittest import mock

import attrs
import flask
import msgspec
import pydantic
import pytest
from flask import Flask, Response, jsonify
from flask.json.provider import DefaultJSONProvider
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from sqlalchemy import Column, ForeignKey, Integer, String, Table
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    mapped_column,
    registry,
    relationship,
)
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.local import LocalProxy
from werkzeug.test import TestResponse

from sidearm import Sidearm, event_stream
from sidearm.exceptions import NoRepresentation, SidearmError
from sidearm.responses import Representations

Answer = Callable[[Callable[[], Any]], TestResponse]


class User:
    """The talk's class."""

    def __init__(self, id: int, username: str) -> None:
        self.id = id
        self.username = username

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "username": self.username}


class Plain:
    """A class that nothing is known about."""

    def __init__(self, name: str = "john") -> None:
        self.name = name


@dataclasses.dataclass
class Item:
    name: str
    owner: Any = None


@attrs.define
class Box:
    label: str
    inside: Any = None


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    for_whom: Any = None


class Page(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    number: int
    items: list[Any] = []


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    password_hash: Mapped[str]
    logins: Mapped[list[Login]] = relationship()


class Login(MappedAsDataclass, Base):
    """A mapped class that Flask, msgspec and pydantic would write with every column."""

    __tablename__ = "logins"

    id: Mapped[int] = mapped_column(primary_key=True)
    password_hash: Mapped[str]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"), default=None)


@dataclasses.dataclass
class Ledger:
    """Mapped by hand, below."""

    id: int
    password_hash: str


registry().map_imperatively(
    Ledger,
    Table(
        "ledgers",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("password_hash", String),
    ),
)


def account() -> Account:
    return Account(id=1, password_hash="hidden")


def login() -> Login:
    return Login(id=1, password_hash="hidden")


@pytest.fixture
def answer(app: Flask) -> Answer:
    """Ask for a page whose view is the function given."""
    views: list[Callable[[], Any]] = []
    app.add_url_rule("/", "index", lambda: views[-1]())  # noqa: PLW0108 (views come later)

    def ask(view: Callable[[], Any]) -> TestResponse:
        views.append(view)
        return app.test_client().get("/")

    return ask


# What is converted.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(User(42, "john"), {"id": 42, "username": "john"}, id="to_json"),
        pytest.param(Item("cup"), {"name": "cup", "owner": None}, id="dataclass"),
        pytest.param(Box("a"), {"label": "a", "inside": None}, id="attrs"),
        pytest.param(Order(7), {"orderId": 7, "forWhom": None}, id="struct"),
        pytest.param(Page(number=1), {"number": 1, "items": []}, id="pydantic"),
        pytest.param(Color.RED, "red", id="enum"),
        pytest.param({"b", "a"}, ["a", "b"], id="set"),
        pytest.param(frozenset({8, 1}), [1, 8], id="frozenset"),
        pytest.param(MappingProxyType({"a": 1}), {"a": 1}, id="mapping"),
        pytest.param([User(1, "a"), Item("cup")], None, id="list"),
        pytest.param({"user": User(1, "a"), Color.RED: {Color.BLUE}}, None, id="dict"),
        pytest.param(OrderedDict(user=User(1, "a")), None, id="ordered-dict"),
    ],
)
def test_r1_a_view_returns_a_value(answer: Answer, value: object, expected: object) -> None:
    """Each kind of value becomes a JSON response."""
    by_hand = {
        list: [{"id": 1, "username": "a"}, {"name": "cup", "owner": None}],
        dict: {"user": {"id": 1, "username": "a"}, "red": ["blue"]},
        OrderedDict: {"user": {"id": 1, "username": "a"}},
    }

    response = answer(lambda: value)

    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert response.json == (by_hand[type(value)] if expected is None else expected)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda value: [value], id="list"),
        pytest.param(lambda value: {"a": value}, id="dict"),
        pytest.param(lambda value: [{"a": [(1, value)]}], id="tuple-in-dict-in-list"),
        pytest.param(lambda value: Item("cup", owner=value), id="dataclass"),
        pytest.param(lambda value: Box("a", inside=[value]), id="attrs"),
        pytest.param(lambda value: Order(1, for_whom=value), id="struct"),
        pytest.param(lambda value: Page(number=1, items=[value]), id="pydantic"),
        pytest.param(lambda value: MappingProxyType({"a": value}), id="mapping"),
        pytest.param(lambda value: LocalProxy(lambda: [value]), id="proxy"),
    ],
)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (User(1, "a"), {"id": 1, "username": "a"}),
        (Plain("ann"), {"name": "ann"}),
        (Item("cup", Color.RED), {"name": "cup", "owner": "red"}),
        (Box("a", {2, 1}), {"label": "a", "inside": [1, 2]}),
        (Order(7), {"orderId": 7, "forWhom": None}),
        (
            Page(number=1, items=[Order(7)]),
            {"number": 1, "items": [{"orderId": 7, "forWhom": None}]},
        ),
    ],
    ids=["to_json", "represented", "dataclass", "attrs", "struct", "pydantic"],
)
def test_r1_every_kind_is_converted_inside_every_other(
    arm: Sidearm,
    answer: Answer,
    wrap: Callable[[Any], Any],
    value: object,
    expected: object,
) -> None:
    """Depth makes no difference."""
    arm.represent(Plain)(lambda plain: {"name": plain.name})

    response = answer(lambda: wrap(value))

    assert json.dumps(expected, sort_keys=True) in json.dumps(response.json, sort_keys=True)


@pytest.mark.parametrize(
    ("form", "status", "header"),
    [
        (lambda value: (value, 201), 201, None),
        (lambda value: (value, "201 Made"), 201, None),
        (lambda value: (value, {"X-Cup": "1"}), 200, "1"),
        (lambda value: (value, [("X-Cup", "1")]), 200, "1"),
        (lambda value: (value, 201, {"X-Cup": "1"}), 201, "1"),
        (lambda value: (value, None, {"X-Cup": "1"}), 200, "1"),
        (lambda value: (value, 201, None), 201, None),
    ],
)
@pytest.mark.parametrize("value", [User(1, "a"), Plain("a"), [Plain("a")], Color.RED, Item("a")])
def test_r1_every_tuple_form_of_flask(
    arm: Sidearm,
    answer: Answer,
    form: Callable[[object], object],
    value: object,
    status: int,
    header: str | None,
) -> None:
    """(value, status), (value, headers) and (value, status, headers) are what they are in Flask."""
    arm.represent(Plain)(lambda plain: {"name": plain.name})

    response = answer(lambda: form(value))

    assert response.status_code == status
    assert response.headers.get("X-Cup") == header
    assert response.mimetype == "application/json"
    assert response.json == answer(lambda: value).json


def test_r1_a_header_of_the_view_replaces_ours(answer: Answer) -> None:
    """The view has the last word on the content type, as it has for a dict."""
    response = answer(lambda: (User(1, "a"), {"Content-Type": "application/vnd.shop+json"}))

    assert response.headers.getlist("Content-Type") == ["application/vnd.shop+json"]


def test_r1_error_handlers_and_before_request_functions_return_values_too(app: Flask) -> None:
    """A value is converted wherever Flask takes a return value."""

    @app.before_request
    def stop() -> Any:
        return Item("stopped") if flask.request.path == "/stop" else None

    @app.errorhandler(404)
    def missing(error: HTTPException) -> Any:
        return Item("missing"), 404

    client = app.test_client()

    assert client.get("/stop").json == {"name": "stopped", "owner": None}
    assert client.get("/nowhere").status_code == 404
    assert client.get("/nowhere").json == {"name": "missing", "owner": None}


def test_r1_async_views_return_values_too(app: Flask) -> None:
    """An async view returns as a plain one does."""
    pytest.importorskip("asgiref")

    @app.get("/later")
    async def later() -> Any:
        return User(1, "a"), 202

    response = app.test_client().get("/later")

    assert (response.status_code, response.json) == (202, {"id": 1, "username": "a"})


def test_r1_flask_make_response_converts(app: Flask) -> None:
    """flask.make_response() makes of a value what a view's return makes of it."""
    with app.test_request_context():
        response = flask.make_response(User(1, "a"), 201, {"X-Cup": "1"})
        assert flask.make_response(Item("cup")).get_json() == {"name": "cup", "owner": None}

    assert (response.status_code, response.headers["X-Cup"]) == (201, "1")
    assert response.get_json() == {"id": 1, "username": "a"}


def test_r1_a_proxy_stands_for_its_object(answer: Answer) -> None:
    """``return current_user`` returns the user, although Flask would call the proxy."""
    assert answer(lambda: LocalProxy(lambda: User(1, "a"))).json == {"id": 1, "username": "a"}
    assert answer(lambda: (LocalProxy(lambda: Item("b")), 201)).json == {"name": "b", "owner": None}
    assert answer(lambda: LocalProxy(lambda: "text")).text == "text"


def test_r1_json_is_written_by_the_applications_own_provider(app: Flask, answer: Answer) -> None:
    """How a leaf looks, the key order and the mimetype are the application's, as for a dict."""

    class Provider(DefaultJSONProvider):
        mimetype = "application/vnd.shop+json"
        sort_keys = False

        @staticmethod
        def default(o: Any) -> Any:
            return o.isoformat() if isinstance(o, date) else DefaultJSONProvider.default(o)

    app.json = Provider(app)

    @dataclasses.dataclass
    class Day:
        on: date
        a: Decimal

    response = answer(lambda: Day(date(2026, 11, 25), Decimal("1.50")))

    assert response.text == '{"on":"2026-11-25","a":"1.50"}\n'
    assert response.mimetype == "application/vnd.shop+json"


# What to_json() and representations say.


@pytest.mark.parametrize("form", ["text", None, 7, 1.5, True, ["a"], ("a", 1), {"a": 1}])
def test_r1_to_json_returns_a_json_value(answer: Answer, form: Any) -> None:
    """What to_json() returns is jsonified, as on the slide, whatever it is."""

    class Thing:
        def to_json(self) -> Any:
            return form

    response = answer(lambda: (Thing(), 201))

    assert response.json == (list(form) if isinstance(form, tuple) else form)
    assert (response.status_code, response.mimetype) == (201, "application/json")


def test_r1_to_json_comes_before_the_shape(answer: Answer) -> None:
    """A dataclass, a Struct, a model, an enum or a named tuple with to_json() is what it says."""

    class Says:
        __slots__ = ()

        def to_json(self) -> str:
            return type(self).__name__

    @dataclasses.dataclass
    class D(Says):
        secret: int = 1

    class S(msgspec.Struct):
        secret: int = 1
        to_json = Says.to_json

    class P(pydantic.BaseModel):
        secret: int = 1
        to_json = Says.to_json

    class E(Says, Enum):
        A = "secret"

    class N(NamedTuple):
        body: str = "secret"
        status: int = 200
        to_json = Says.to_json  # type: ignore[misc]

    values = [D(), S(), P(), E.A, N()]

    assert [answer(lambda value=value: value).json for value in values] == list("DSPEN")
    assert answer(lambda: values).json == list("DSPEN")
    assert answer(lambda: Page(number=1, items=values)).json == {
        "number": 1,
        "items": list("DSPEN"),
    }


def test_r1_a_registered_representation_comes_first(arm: Sidearm, answer: Answer) -> None:
    """A representation wins over to_json() and every shape, at any depth."""

    @arm.represent(User)
    def user_json(user: User) -> dict[str, int]:
        return {"only": user.id}

    @arm.represent(Item)
    def item_json(item: Item) -> str:
        return item.name

    assert user_json(User(3, "c")) == {"only": 3}
    assert answer(lambda: User(3, "c")).json == {"only": 3}
    assert answer(lambda: (User(3, "c"), 201)).status_code == 201
    assert answer(lambda: [Item("cup", User(3, "c"))]).json == ["cup"]
    assert answer(lambda: Item("cup")).json == "cup"
    assert answer(lambda: Page(number=1, items=[Item("cup")])).json == {
        "number": 1,
        "items": ["cup"],
    }


def test_r1_what_a_representation_returns_is_converted_in_turn(
    arm: Sidearm, answer: Answer
) -> None:
    """A representation may return other values of the application."""
    arm.represent(Plain)(lambda plain: {"item": Item(plain.name, owner=User(1, "a"))})

    assert answer(lambda: Plain("cup")).json == {
        "item": {"name": "cup", "owner": {"id": 1, "username": "a"}}
    }


def test_r1_the_nearest_class_decides(arm: Sidearm, answer: Answer) -> None:
    """By the MRO; a class without a representation of its own uses its base's."""

    class Animal: ...

    class Dog(Animal): ...

    class Puppy(Dog): ...

    class Cat(Animal): ...

    arm.represent(Animal)(lambda animal: "animal")
    arm.represent(Dog)(lambda dog: "dog")

    assert answer(lambda: [Puppy(), Dog(), Cat(), Animal()]).json == [
        "dog",
        "dog",
        "animal",
        "animal",
    ]


def test_r1_abstract_base_classes_can_be_represented(arm: Sidearm, answer: Answer) -> None:
    """Classes that were registered with an ABC are represented by it, those that come later too."""

    class Priced(ABC):  # noqa: B024 (a marker)
        pass

    class Cup: ...

    class Plate: ...

    Priced.register(Cup)
    arm.represent(Priced)(lambda priced: "priced")

    assert answer(lambda: [Cup()]).json == ["priced"]
    Priced.register(Plate)
    assert answer(lambda: [Plate()]).json == ["priced"]


def test_r1_leaves_can_be_represented(arm: Sidearm, answer: Answer) -> None:
    """A representation of a date counts everywhere, also inside Structs and pydantic models."""

    class When(pydantic.BaseModel):
        day: date

    arm.represent(date)(lambda day: day.strftime("%d.%m.%Y"))
    day = date(2026, 11, 25)

    assert answer(lambda: {"a": day}).json == {"a": "25.11.2026"}
    assert answer(lambda: Order(1, day)).json == {"orderId": 1, "forWhom": "25.11.2026"}
    assert answer(lambda: When(day=day)).json == {"day": "25.11.2026"}


def test_r1_a_representation_may_come_after_a_request(arm: Sidearm, answer: Answer) -> None:
    """A later representation replaces an earlier one, and nothing is remembered of it."""
    assert answer(lambda: [User(1, "a")]).json == [{"id": 1, "username": "a"}]
    arm.represent(User)(lambda user: "first")
    assert answer(lambda: [User(1, "a")]).json == ["first"]
    arm.represent(User)(lambda user: "second")
    assert answer(lambda: [User(1, "a")]).json == ["second"]


def test_r1_a_representation_may_be_a_response(arm: Sidearm, answer: Answer) -> None:
    """A representation that returns a response decides everything, but what the view adds."""
    arm.represent(Plain)(lambda plain: Response(f"<b>{plain.name}</b>", headers={"X-Cup": "1"}))

    response = answer(lambda: (Plain("ann"), 203))

    assert (response.status_code, response.text) == (203, "<b>ann</b>")
    assert response.headers["X-Cup"] == "1"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("User", "represent() got 'User'. Give a class, such as represent(User)."),
        (list[User], "Give a class"),
        (object, "represent() got object, which Flask and JSON have a form for already."),
        (dict, "Give a class of your own"),
        (str, "Give a class of your own"),
        (type(None), "Give a class of your own"),
        (Response, "Give a class of your own"),
        (NotFound, "Register '@app.errorhandler(NotFound)' instead."),
    ],
)
def test_r1_representing_what_has_a_form_already_is_an_error(
    arm: Sidearm, wrong: Any, message: str
) -> None:
    """The error names the value and the cure, when the application is set up."""
    with pytest.raises(TypeError) as caught:
        arm.represent(wrong)

    assert message in str(caught.value)


def test_r1_an_error_in_to_json_comes_out_as_it_is(app: Flask, answer: Answer) -> None:
    """An error of the user's function reaches the caller once and unwrapped."""
    calls = []

    class Broken:
        def to_json(self) -> Any:
            calls.append(1)
            raise TypeError("mine")

    for view in (Broken, lambda: (Broken(), 201), lambda: [Broken()]):
        calls.clear()
        with pytest.raises(TypeError, match=r"^mine$") as caught:
            answer(view)
        assert caught.value.__context__ is None
        assert len(calls) == 1


# The shapes.


def test_r1_struct_options_are_honoured(answer: Answer) -> None:
    """rename, omit_defaults, tag, array_like and UNSET mean what they mean to msgspec."""

    class Tagged(
        msgspec.Struct,
        rename="kebab",
        omit_defaults=True,
        tag_field="kind",
        tag="cup",
        kw_only=True,
    ):
        full_name: str = "nobody"
        left: int | msgspec.UnsetType = msgspec.UNSET
        tags: list[str] = []
        sold: dict[str, int] = {}
        price: int

    class Pair(msgspec.Struct, array_like=True, tag=True):
        a: int
        b: Any = None

    assert answer(lambda: Tagged(price=1)).json == {"kind": "cup", "price": 1}
    assert "tags" in answer(lambda: Tagged(price=1, tags=())).json  # empty, but not the default
    assert answer(lambda: Tagged(price=1, full_name="ann", left=2, tags=["x"])).json == {
        "kind": "cup",
        "full-name": "ann",
        "left": 2,
        "tags": ["x"],
        "price": 1,
    }
    assert answer(lambda: Pair(1, Pair(2, User(3, "c")))).json == [
        "Pair",
        1,
        ["Pair", 2, {"id": 3, "username": "c"}],
    ]


values = st.one_of(
    st.none(), st.booleans(), st.integers(-300, 300), st.text(max_size=3), st.just(msgspec.UNSET)
)


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "omit_defaults": st.booleans(),
            "array_like": st.booleans(),
            "tag": st.sampled_from([True, False, "t", 7]),
            "rename": st.sampled_from(["camel", "upper", {"first_one": "1st"}]),
            "kw_only": st.booleans(),
        },
    ),
    fields=st.lists(
        st.tuples(
            st.sampled_from(["none", "value", "list", "dict", "set", "required"]),
            st.one_of(values, st.sampled_from([[], {}, ["x"], {"y": 1}])),
        ),
        max_size=3,
    ),
)
def test_r1_a_struct_has_the_shape_that_msgspec_gives_it(
    options: dict[str, Any], fields: list[tuple[str, Any]]
) -> None:
    """Any Struct of plain values comes out as msgspec itself would write it."""
    names = ["first_one", "second_one", "third_one"]
    defaults = {"none": None, "value": "x", "list": [], "dict": {}}
    definition: list[Any] = sorted(
        (
            (name, Any)
            if kind == "required"
            else (name, Any, msgspec.field(default_factory=set))
            if kind == "set"
            else (name, Any, defaults[kind])
            for name, (kind, _) in zip(names, fields, strict=False)
        ),
        key=len,
    )
    struct = msgspec.defstruct("Struct", definition, **options)
    given_values = {name: value for name, (_, value) in zip(names, fields, strict=False)}

    for arguments in (given_values, _required(definition, given_values)):
        value = struct(**arguments)
        try:
            expected = msgspec.to_builtins(value)
        except TypeError:  # UNSET in an array has no form
            continue
        assert Representations().plain(value) == expected


def _required(definition: list[Any], given_values: dict[str, Any]) -> dict[str, Any]:
    return {field[0]: given_values[field[0]] for field in definition if len(field) == 2}


def test_r1_pydantic_models_are_dumped_by_their_own_rules(answer: Answer) -> None:
    """Aliases, exclusions, secrets, computed fields and serializers are the model's own."""

    class Shop(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(serialize_by_alias=True, extra="allow")

        shop_id: int = pydantic.Field(alias="shopId")
        key: pydantic.SecretStr
        internal: str = pydantic.Field("no", exclude=True)
        price: Decimal

        @pydantic.computed_field(alias="twicePrice")  # type: ignore[prop-decorator]
        @property
        def twice(self) -> Decimal:
            return self.price * 2

        @pydantic.field_serializer("price")
        def write_price(self, price: Decimal) -> str:
            return f"{price} EUR"

    class Numbers(pydantic.RootModel[list[int]]):
        pass

    shop = Shop(shopId=1, key="hidden", price="1.5", extra=["x"])

    assert answer(lambda: shop).json == {
        "shopId": 1,
        "key": "**********",
        "price": "1.5 EUR",
        "twicePrice": "3.0",
        "extra": ["x"],
    }
    assert answer(lambda: [Numbers([1, 2])]).json == [[1, 2]]


def test_r1_what_pydantic_does_not_know_is_converted_in_its_place(
    arm: Sidearm, answer: Answer
) -> None:
    """Aliases, computed fields, extras and root models keep their names around our values."""

    class Shop(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(
            serialize_by_alias=True, extra="allow", arbitrary_types_allowed=True
        )

        owner_of_it: Plain = pydantic.Field(alias="ownerOfIt")

        @pydantic.computed_field(alias="theSame")  # type: ignore[prop-decorator]
        @property
        def same(self) -> Any:
            return [self.owner_of_it]

    class Owners(pydantic.RootModel[list[Any]]):
        pass

    arm.represent(Plain)(lambda plain: plain.name)

    assert answer(lambda: Shop(ownerOfIt=Plain("ann"), more=Plain("bob"))).json == {
        "ownerOfIt": "ann",
        "theSame": ["ann"],
        "more": "bob",
    }
    assert answer(lambda: Owners([Plain("ann")])).json == ["ann"]


def test_r1_a_serializer_of_the_models_own_stands(arm: Sidearm, answer: Answer) -> None:
    """Where a model says itself how a field is written, it gets the value as it is."""

    class Shop(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

        owner: Plain

        @pydantic.field_serializer("owner")
        def write_owner(self, owner: Plain) -> str:
            return owner.name.upper()

    class Hides(pydantic.BaseModel):
        items: list[Any]

        def model_dump(self, **options: Any) -> dict[str, Any]:
            return super().model_dump(**options) | {"items": "hidden"}

    arm.represent(Item)(lambda item: item.name)
    arm.represent(Plain)(lambda plain: plain.name)

    assert answer(lambda: Shop(owner=Plain("ann"))).json == {"owner": "ANN"}
    assert answer(lambda: Hides(items=[Item("cup")])).json == {"items": "hidden"}


def test_r1_pydantics_narrowing_stands(arm: Sidearm, answer: Answer) -> None:
    """A field that declares a base class shows the base's fields only, whatever else is in it."""

    class UserOut(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

        since: date
        pet: Plain

    class UserIn(UserOut):
        password: str

    @dataclasses.dataclass
    class Pair:
        left: UserOut

    class Group(pydantic.BaseModel):
        first: UserOut
        rest: list[UserOut]
        pairs: list[Pair]
        anything: Any

    arm.represent(date)(lambda day: "a day")
    arm.represent(Plain)(lambda plain: plain.name)
    user = UserIn(since=date(2026, 1, 1), pet=Plain("rex"), password="hidden")
    exact = UserOut(since=date(2026, 1, 1), pet=Plain("rex"))

    narrowed = answer(lambda: [Group(first=user, rest=[user], pairs=[Pair(user)], anything=1)])
    plain = answer(lambda: Group(first=exact, rest=[exact], pairs=[], anything=[exact]))

    form = {"since": "2026-01-01", "pet": "rex"}
    assert narrowed.json == [
        {"first": form, "rest": [form], "pairs": [{"left": form}], "anything": 1}
    ]
    assert plain.json["rest"] == plain.json["anything"] == [{"since": "a day", "pet": "rex"}]
    assert answer(lambda: user).json == form | {"since": "a day", "password": "hidden"}


def test_r1_a_form_inside_an_annotation_stands(arm: Sidearm, answer: Answer) -> None:
    """What an annotation hides deep inside stays hidden beside a value that we would convert."""
    masked = Annotated[str, pydantic.PlainSerializer(lambda text: "***")]

    class Keys(pydantic.BaseModel):
        masked: tuple[masked, date]
        secret: dict[str, pydantic.SecretStr | date]
        checked: Annotated[list[date], pydantic.AfterValidator(lambda days: days)]
        odd: Annotated[date | None, pydantic.Field(exclude_if=bool)] = None

    arm.represent(date)(lambda day: "a day")
    day = date(2026, 1, 1)
    keys = Keys(masked=("key", day), secret={"k": "key", "d": day}, checked=[day], odd=day)

    assert answer(lambda: keys).json == {
        "masked": ["***", "2026-01-01"],
        "secret": {"k": "**********", "d": "2026-01-01"},
        "checked": ["a day"],
    }


def test_r1_an_error_under_pydantic_comes_out_as_it_is(arm: Sidearm, answer: Answer) -> None:
    """Pydantic wraps no error of a representation, and what nobody knows is named."""
    value: Any = Plain()

    with pytest.raises(TypeError, match=r"^Object of type Plain is not JSON serializable$"):
        answer(lambda: Page(number=1, items=[value]))

    @arm.represent(Plain)
    def fail(plain: Plain) -> None:
        raise LookupError(plain.name)

    with pytest.raises(LookupError, match=r"^john$"):
        answer(lambda: Page(number=1, items=[value]))


def test_r1_pydantic_dataclasses_are_dumped_by_their_own_rules(
    arm: Sidearm, answer: Answer
) -> None:
    """A pydantic dataclass hides what it excludes, which Flask would have written."""

    @pydantic.dataclasses.dataclass(config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    class Shop:
        name: str
        owner: Plain
        key: str = pydantic.Field("hidden", exclude=True)

    arm.represent(Plain)(lambda plain: plain.name)

    assert answer(lambda: [Shop("cups", Plain("ann"))]).json == [{"name": "cups", "owner": "ann"}]


# What never leaves.


@pytest.mark.parametrize(
    "make",
    [account, login, lambda: Ledger(1, "hidden")],
    ids=["declarative", "mapped-dataclass", "imperative"],
)
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda mapped: mapped, id="alone"),
        pytest.param(lambda mapped: (mapped, 201), id="status"),
        pytest.param(lambda mapped: (mapped, 201, {"X-Cup": "1"}), id="status-and-headers"),
        pytest.param(lambda mapped: [mapped], id="list"),
        pytest.param(lambda mapped: ([{"a": (mapped,)}], 201), id="deep"),
        pytest.param(lambda mapped: {"a": mapped}, id="dict"),
        pytest.param(lambda mapped: OrderedDict(a=mapped), id="ordered-dict"),
        pytest.param(lambda mapped: MappingProxyType({"a": mapped}), id="mapping"),
        pytest.param(lambda mapped: Item("cup", owner=mapped), id="dataclass"),
        pytest.param(lambda mapped: Box("a", inside=[mapped]), id="attrs"),
        pytest.param(lambda mapped: Order(1, for_whom=mapped), id="struct"),
        pytest.param(lambda mapped: Page(number=1, items=[mapped]), id="pydantic"),
        pytest.param(
            lambda mapped: Page(number=1, items=[Item("cup", owner={"a": mapped})]),
            id="dataclass-in-pydantic",
        ),
        pytest.param(
            lambda mapped: Page(number=1, items=[Box("a", mapped)]), id="attrs-in-pydantic"
        ),
        pytest.param(
            lambda mapped: Order(1, Page(number=1, items=[Page(number=2, items=[mapped])])),
            id="pydantic-in-pydantic-in-struct",
        ),
        pytest.param(lambda mapped: LocalProxy(lambda: mapped), id="proxy"),
        pytest.param(lambda mapped: [LocalProxy(lambda: mapped)], id="proxy-in-list"),
    ],
)
def test_r1_mapped_classes_are_never_converted_by_shape(
    answer: Answer, make: Callable[[], object], wrap: Callable[[object], object]
) -> None:
    """A password_hash cannot leave by accident, whatever it is wrapped in."""
    with pytest.raises(NoRepresentation) as caught:
        answer(lambda: wrap(make()))

    name = type(make()).__name__
    assert caught.value.mapped is type(make())
    assert isinstance(caught.value, SidearmError)
    assert isinstance(caught.value, TypeError)
    assert f"{__name__}.{name} is a mapped class" in str(caught.value)
    assert f"register '@arm.represent({name})', or give {name} a to_json() method" in str(
        caught.value
    )
    assert "hidden" not in str(caught.value)


def test_r1_relationships_of_mapped_classes_are_not_converted_either(answer: Answer) -> None:
    """A relationship's collection is a list of mapped objects."""
    owner = Account(id=1, password_hash="hidden", logins=[login()])

    with pytest.raises(NoRepresentation):
        answer(lambda: owner.logins)
    with pytest.raises(NoRepresentation):
        answer(lambda: {"logins": owner.logins})


def test_r1_the_cure_works_for_mapped_classes(arm: Sidearm, answer: Answer) -> None:
    """A representation or to_json() lets out what it names, at any depth, and nothing else."""

    class Named(Account):
        def to_json(self) -> dict[str, Any]:
            return {"id": self.id}

    @arm.represent(Login)
    def login_json(login: Login) -> dict[str, Any]:
        return {"login": login.id}

    class Logins(pydantic.BaseModel):
        items: list[Login]

    assert answer(login).json == {"login": 1}
    assert answer(lambda: (login(), 201)).status_code == 201
    assert answer(lambda: [Item("a", login())]).json == [{"name": "a", "owner": {"login": 1}}]
    assert answer(lambda: Logins(items=[login()])).json == {"items": [{"login": 1}]}
    assert answer(lambda: {"a": Named(id=2, password_hash="hidden")}).json == {"a": {"id": 2}}


def test_r1_a_pydantic_field_typed_as_a_mapped_class_is_refused(answer: Answer) -> None:
    """Where pydantic knows the mapped dataclass, it is refused like anywhere else."""

    class Session(pydantic.BaseModel):
        login: Login

    class Hidden(pydantic.BaseModel):
        login: Login = pydantic.Field(exclude=True)

    class Computed(pydantic.BaseModel):
        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def login(self) -> Login:
            return login()

    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")

    assert "hidden" in Session(login=login()).model_dump_json()
    with pytest.raises(NoRepresentation):
        answer(lambda: Open(login=login()))
    with pytest.raises(NoRepresentation):
        answer(lambda: Session(login=login()))
    with pytest.raises(NoRepresentation):
        answer(Computed)
    assert answer(lambda: Hidden(login=login())).json == {}


def test_r1_a_serializer_around_a_mapped_class_is_refused(arm: Sidearm, answer: Answer) -> None:
    """What a model's own serializer does with a mapped value cannot be seen, so nothing leaves."""
    arm.represent(Login)(lambda login: login.id)

    class Wraps(pydantic.BaseModel):
        logins: list[Login]

        @pydantic.field_serializer("logins", mode="wrap")
        def write(self, logins: Any, write: Any) -> Any:
            return write(logins)

    class Whole(pydantic.BaseModel):
        logins: list[Login]

        @pydantic.model_serializer(mode="wrap")
        def write(self, write: Any) -> Any:
            return write(self)

    for model in (Wraps, Whole):
        with pytest.raises(NoRepresentation) as caught:
            answer(lambda model=model: model(logins=[login()]))
        assert caught.value.holder is model
        assert f"register '@arm.represent({model.__name__})'" in str(caught.value)


def test_r1_sqlmodel_tables_are_mapped_classes(arm: Sidearm, answer: Answer) -> None:
    """An SQLModel table is a pydantic model too, and yet no shape; a plain SQLModel is one."""
    sqlmodel = pytest.importorskip("sqlmodel")

    class Hero(sqlmodel.SQLModel, table=True):  # type: ignore[call-arg]
        id: int = sqlmodel.Field(primary_key=True)
        password_hash: str

    class HeroPublic(sqlmodel.SQLModel):
        id: int
        friends: list[Any] = []  # noqa: RUF012 (a model copies it)

    hero = Hero(id=1, password_hash="hidden")

    for value in (hero, [hero], Page(number=1, items=[hero]), HeroPublic(id=2, friends=[hero])):
        with pytest.raises(NoRepresentation):
            answer(lambda value=value: value)
    assert answer(lambda: HeroPublic(id=2)).json == {"id": 2, "friends": []}
    arm.represent(Hero)(lambda hero: hero.id)
    assert answer(lambda: HeroPublic(id=2, friends=[hero])).json == {"id": 2, "friends": [1]}


# What is Flask's stays Flask's.


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        bytearray(b"bytes"),
        Markup("<b>"),
        Response("response"),
        NotFound(),
        {"a": 1, "b": [None, 1.5, {"c": "d"}]},
        [1, "a", {"b": (1, 2)}],
        OrderedDict(a=1),
        {1: "a", None: "b"},
        [Decimal("1.5"), date(2026, 11, 25)],
        ("text", 201),
        ({"a": 1}, 201, {"X-Cup": "1"}),
        42,
        Plain(),
        Plain,
        None,
        (None, 200),
        ("text",),
        ("text", 1, {}, 2),
        (("text", 200), 201),
        Decimal("1.5"),
    ],
    ids=repr,
)
def test_r1_what_is_flasks_passes_untouched(value: Any) -> None:
    """Flask's own make_response() sees the same object, and its own errors come out."""
    plain_app, with_sidearm = Flask("testapp"), Flask("testapp")
    Representations().install(with_sidearm)

    def outcome(app: Flask) -> tuple[Any, ...]:
        with app.test_request_context():
            try:
                response = app.make_response(value)
            except Exception as error:  # noqa: BLE001 (whatever Flask raises)
                return type(error), str(error), repr(error.__context__)
            return response.status, list(response.headers), response.get_data()

    assert outcome(with_sidearm) == outcome(plain_app)
    with mock.patch.object(Flask, "make_response", autospec=True) as flasks:
        with_sidearm.make_response(value)
    passed = flasks.call_args.args[1]
    assert passed is value or (passed[0] is value[0] and passed == value)


def test_r1_plain_dicts_and_lists_are_not_walked_twice(app: Flask) -> None:
    """What holds nothing of ours is seen to be plain at a glance, and costs no more than that."""
    with (
        app.test_request_context(),
        mock.patch.object(Representations, "plain", side_effect=AssertionError),
    ):
        assert app.make_response([{"a": [1, {"b": None}]}] * 2).status_code == 200
        assert app.make_response(({"a": [1.5, "x"]}, 201)).status_code == 201


def test_r1_iterators_and_wsgi_applications_are_flasks(app: Flask, answer: Answer) -> None:
    """A generator streams, and what can be called is called."""

    def numbers() -> Iterator[str]:
        yield "one "
        yield "two"

    @dataclasses.dataclass
    class Application:
        text: str

        def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
            start_response("202 Accepted", [])
            return [self.text.encode()]

    assert answer(numbers).text == "one two"
    assert answer(lambda: iter(["a", "b"])).text == "ab"
    assert answer(lambda: map(str, (1, 2))).text == "12"
    assert answer(lambda: Application("called")).text == "called"
    assert answer(lambda: jsonify(a=1)).json == {"a": 1}

    class Download(Response):
        def to_json(self) -> str:
            return "not asked"

    assert answer(lambda: Download("a file")).text == "a file"


def test_r1_a_stream_is_a_response(answer: Answer) -> None:
    """An EventStream passes as it is."""
    assert answer(lambda: event_stream("cups")).mimetype == "text/event-stream"


def test_r1_raised_http_exceptions_are_flasks(answer: Answer) -> None:
    """An HTTPException keeps its status, even if it is a dataclass or has to_json()."""

    @dataclasses.dataclass
    class SoldOut(HTTPException):
        cup: str = "blue"
        code = 409

        def __post_init__(self) -> None:
            super().__init__(self.cup)

        def to_json(self) -> str:
            return self.cup

    def buy() -> Any:
        raise SoldOut

    assert answer(buy).status_code == 409
    assert answer(SoldOut).status_code == 409


def test_r1_none_is_flasks_own_error(answer: Answer) -> None:
    """A view without a return statement is told so in Flask's words."""
    with pytest.raises(TypeError, match="either returned None or ended without a return statement"):
        answer(lambda: None)


def test_r1_text_costs_nothing_to_speak_of(app: Flask) -> None:
    """A str, the commonest return value, is passed on at the first glance: by one more call."""
    bare = Flask("bare")

    def count(app: Flask) -> int:
        calls = 0

        def note(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(note)
        try:
            app.make_response("text")
        finally:
            sys.setprofile(None)
        return calls

    with bare.test_request_context():
        assert count(app) - count(bare) <= 2  # our function, and what it asks for the application


# Who else makes responses.


class Envelope(Flask):
    """An application that has its own way with dicts, and with one class."""

    def make_response(self, rv: Any) -> Response:
        if isinstance(rv, dict):
            rv = {"data": rv}
        if isinstance(rv, Plain):
            return Response("plain by the application", status=203)
        return super().make_response(rv)


def test_r1_the_applications_own_make_response_is_asked_first(arm: Sidearm) -> None:
    """An override sees what the view returned, and what Sidearm makes of values it passes on."""
    app = Envelope("testapp")
    arm.init_app(app)

    with app.test_request_context():
        assert app.make_response(Plain()).get_data() == b"plain by the application"
        assert app.make_response((Plain(), 201)).status_code == 201
        assert app.make_response((Plain(), 201)).get_data() == b"plain by the application"
        assert app.make_response({"a": 1}).get_json() == {"data": {"a": 1}}
        assert app.make_response({"a": Item("b")}).get_json()["data"]["a"]["name"] == "b"
        assert app.make_response(Item("b")).get_json() == {"data": {"name": "b", "owner": None}}
        assert app.make_response(Color.RED).get_json() == "red"
        assert app.make_response((Color.RED, 201)).status == "201 CREATED"

        arm.represent(Plain)(lambda plain: ["represented"])
        assert app.make_response(Plain()).get_json() == ["represented"]


@pytest.mark.parametrize("value", [42, None, (42, 200), (None, 200), (("a", 200), 201), Plain])
def test_r1_an_override_leaves_flasks_errors_as_they_are(value: Any) -> None:
    """With an override too, Flask's refusal comes out once and in Flask's words."""

    class Passing(Flask):
        def make_response(self, rv: Any) -> Response:
            return super().make_response(rv)

    def refusal(app: Flask) -> str:
        with app.test_request_context(), pytest.raises(TypeError) as caught:
            app.make_response(value)
        return "".join(traceback.format_exception_only(caught.value))

    app = Passing("testapp")
    Representations().install(app)

    assert refusal(app) == refusal(Flask("testapp"))


def test_r1_an_override_cannot_lay_a_mapped_class_open(arm: Sidearm) -> None:
    """An override that passes on leaves mapped classes refused, in containers too."""
    app = Envelope("testapp")
    arm.init_app(app)

    with app.test_request_context():
        for value in (login(), (login(), 201), [login()], {"a": login()}, ([login()], 201)):
            with pytest.raises(NoRepresentation):
                app.make_response(value)


@pytest.mark.parametrize("value", [lambda broken: broken, lambda broken: (broken, 201)])
def test_r1_an_error_inside_an_override_comes_out_as_it_is(
    arm: Sidearm, value: Callable[[object], object]
) -> None:
    """A TypeError of the user's own is no refusal of Flask's: nobody is asked again."""
    calls = []

    class Broken:
        def to_json(self) -> Any:
            calls.append(1)
            raise TypeError("mine")

    class Slide(Flask):
        def make_response(self, rv: Any) -> Response:
            if hasattr(rv, "to_json"):
                return jsonify(rv.to_json())
            return Flask.make_response(self, rv)

    app = Slide("testapp")
    arm.init_app(app)

    with app.test_request_context(), pytest.raises(TypeError, match=r"^mine$"):
        app.make_response(value(Broken()))
    assert len(calls) == 1


def test_r1_a_mistake_of_an_override_is_not_hidden(arm: Sidearm) -> None:
    """An override that turns a value into something unfit gets Flask's word on that."""

    class Mistaken(Flask):
        def make_response(self, rv: Any) -> Response:
            return super().make_response(42 if isinstance(rv, Item) else rv)

    app = Mistaken("testapp")
    arm.init_app(app)

    with app.test_request_context(), pytest.raises(TypeError, match="was a int"):
        app.make_response(Item("cup"))


def test_r1_extensions_before_and_after_keep_their_say(app: Flask) -> None:
    """make_response() can be replaced on the application by others, before us and after."""
    before = Flask("testapp")
    own = before.make_response
    before.make_response = lambda rv: own("earlier" if rv == 42 else rv)  # type: ignore[method-assign]
    Representations().install(before)
    with before.test_request_context():
        assert before.make_response(42).get_data() == b"earlier"
        assert before.make_response((Item("cup"), 201)).get_json()["name"] == "cup"

    ours = app.make_response
    app.make_response = lambda rv: ours(Item("later") if rv == 42 else rv)  # type: ignore[method-assign]
    with app.test_request_context():
        assert app.make_response(42).get_json()["name"] == "later"


def test_r1_one_object_serves_several_applications(arm: Sidearm) -> None:
    """A representation is the extension's; the JSON is each application's own."""
    apps = [Flask("one"), Flask("two")]
    arm.represent(Plain)(lambda plain: {"b": 1, "a": 2})
    for app in apps:
        arm.init_app(app)
    apps[1].json.sort_keys = False  # type: ignore[attr-defined]

    texts = []
    for app in apps:
        with app.test_request_context():
            texts.append(app.make_response(Plain()).get_data(as_text=True))

    assert texts == ['{"a":2,"b":1}\n', '{"b":1,"a":2}\n']


def test_r1_an_application_out_of_use_is_freed_at_once() -> None:
    """What is installed does not refer back to the application: no cycle awaits collection."""
    representations = Representations()
    app = Flask("testapp")
    representations.install(app)
    with app.test_request_context():
        app.make_response(Item("cup"))
    make_response, gone = app.make_response, weakref.ref(app)

    gc.collect()  # Flask's own request contexts are cycles
    gc.disable()
    try:
        del app
        assert gone() is None
    finally:
        gc.enable()
    with pytest.raises(ReferenceError, match="Keep a reference to the application"):
        make_response("text")


def test_r1_optional_packages_are_not_imported() -> None:
    """Sidearm converts what is installed without importing it."""
    code = (
        "import sys, sidearm.responses\n"
        "print({'sqlalchemy', 'attr', 'attrs', 'pydantic', 'sqlmodel'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"
