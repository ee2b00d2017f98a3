"""What files refer to: found by tokenizers, resolved as browsers do, and nothing else touched."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidearm.assets.components import Components
from sidearm.assets.names import add_hash, split_hash
from sidearm.assets.references import find_references, resolve, rewrite

CSS = {
    # what a browser fetches
    "a { b: url(x.png) }": ["x.png"],
    "a { b: url( 'x.png' ) }": ["x.png"],
    'a { b: URL("x.png") }': ["x.png"],
    "a { b: url(\n\tx.png\t) }": ["x.png"],
    "a { b: url(x.png?v#y) }": ["x.png?v#y"],
    r"a { b: \75\72l(x.png) }": ["x.png"],
    r"a { b: url(a\).png) }": ["a).png"],
    r"a { b: url('\78.png') }": ["x.png"],
    "a { b: url(/static/x.png) }": ["/static/x.png"],
    "a { b: src('x.png') }": ["x.png"],
    "a { b: image-set('x.png' 1x, url(y.png) 2x, 'z.png' type('image/png')) }": [
        *("x.png", "y.png", "z.png")
    ],
    "a { --own: url(x.png); --deep: { b: url(y.png) } }": ["x.png", "y.png"],
    "@media print { a { & b { c: url(x.png) } } }": ["x.png"],
    "@font-face { src: local('x'), url(x.woff2)format('woff2') }": ["x.woff2"],
    "@import 'x.css';@import url(y.css) layer(z) print;": ["x.css", "y.css"],
    "@IMPORT /* 'no.css' */ \"x.css\" supports(content: 'no');": ["x.css"],
    "a{}/*# sourceMappingURL=no.map */\n/*# sourceMappingURL=x.map */": ["x.map"],
    "a { b: url(\u00e9.png) }\r\n\u20ac { c: url(\u65e5.png) }": ["\u00e9.png", "\u65e5.png"],
    ".ie { *zoom: 1; filter: progid:X(src='no'); behavior: url(x.htc) }": ["x.htc"],
    "a { b: url(x.png": ["x.png"],  # CSS Syntax, 4.3.6: the end closes it
    # what it does not
    "/* url(no.png) @import 'no.css' */": [],
    "a { content: 'url(no.png)'; b: \"@import 'no.css'\" }": [],
    "a { b: url(data:image/png;base64,xx) url(#x) url() url('') }": [],
    "a { b: url(https://x.example/y.png) url(//x.example/y.png) }": [],
    "@namespace url(no); @namespace svg 'no'; @charset 'no.css';": [],
    "a { b: curl(no.png) my-url(no.png); c: url (no.png) }": [],
    "a { b: url(no .png) url(no'.png) }": [],  # bad URLs
    "a[href='no.png'], a::after { content: attr(url) }": [],
    "a { @import 'no.css'; }": ["no.css"],  # never fetched, and does no harm
}

JAVASCRIPT = {
    'import "./x.js"': ["./x.js"],
    "import a, { b as c } from '../x.js';": ["../x.js"],
    'import * as a from "/static/x.js"': ["/static/x.js"],
    'export * from "./x.js"; export { y } from "./y.js"': ["./x.js", "./y.js"],
    'import a from "./x.json" with { type: "json" }': ["./x.json"],
    'const a = await import("./x.js")': ["./x.js"],
    'import(/* a comment */ "./x.js", { with: {} })': ["./x.js"],
    '`${import("./x.js")}`': ["./x.js"],
    'class A { static { import("./x.js") } #b = () => import("./y.js") }': ["./x.js", "./y.js"],
    '@decorated class A { accessor b = 1 }\nimport "./x.js"': ["./x.js"],
    'import "./x.js" // import "./no.js"': ["./x.js"],
    "0;\n//# sourceMappingURL=no.map\n//# sourceMappingURL=x.map\n": ["x.map"],
    "0;\n/*# sourceMappingURL=x.map */": ["x.map"],
    'import "./\u65e5.js"; import "./x.js"': ["./\u65e5.js", "./x.js"],
    # what is left as it is
    '// import "./no.js"\n/* import("./no.js") */': [],
    "const s = 'import \"./no.js\"', t = `import './no.js'`": [],
    "import(`./no.js`); import(`./${no}.js`); import('./n' + 'o.js'); import(no)": [],
    'import "vue"; import "@scope/no"; import "no.js"; import("no")': [],
    'import "https://x.example/no.js"; import "//x.example/no.js"; import "data:text/no,0"': [],
    r'const r = /import ".\/no.js"/; a.import("./no.js"); b.from("./no.js")': [],
    r'import "./\u006eo.js"': [],
    'const s = "//# sourceMappingURL=no.map"': [],
}


@pytest.mark.parametrize(("css", "targets"), CSS.items())
def test_a1_references_in_css(css: str, targets: list[str]) -> None:
    """What is found is where it is said to be."""
    content = css.encode()
    found = find_references("x.css", content)
    assert [each.target for each in found] == targets
    for each in found:
        written = content[each.start : each.end].decode()
        assert written == each.target or "\\" in written


@pytest.mark.parametrize(("javascript", "targets"), JAVASCRIPT.items())
def test_a1_references_in_javascript(javascript: str, targets: list[str]) -> None:
    """In modules and in scripts."""
    content = javascript.encode()
    for name in ("x.js", "x.MJS"):
        found = find_references(name, content)
        assert [each.target for each in found] == targets
        assert [content[each.start : each.end].decode() for each in found] == targets


def test_a1_other_files_have_no_references() -> None:
    """Whatever they hold."""
    for name in ("x.txt", "x.css.map", "x.html", "css", "x.svg"):
        assert find_references(name, b"a { b: url(x.png) } import './x.js'") == []


@given(st.binary(max_size=300))
def test_a1_any_bytes_can_be_looked_through(content: bytes) -> None:
    """A file that is no text, or half of one, costs nothing but its references."""
    for prefix in (b"", b"a { b: url(x.png) } /* url( ", b"@import 'x.css'; \\"):
        for each in find_references("x.css", prefix + content):
            assert 0 <= each.start <= each.end <= len(prefix + content)
    find_references("x.js", b"import './x.js'; `${" + content)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("x.png", "/static/css/x.png"),
        ("./x.png", "/static/css/x.png"),
        ("../x.png", "/static/x.png"),
        ("../../x.png", "/x.png"),
        ("../../../x.png", None),
        ("/x/y.png", "/x/y.png"),
        ("a/../x.png?q#f", "/static/css/x.png"),
        ("%C3%A9%20x.png", "/static/css/\u00e9 x.png"),
        ("a%2Fx.png", None),
        ("%2e%2e/x.png", None),
        ("folder/", None),
        ("..", "/static"),
    ],
)
def test_a1_references_lead_where_browsers_go(target: str, path: str | None) -> None:
    """From a stylesheet in a folder; nothing is guessed."""
    assert resolve("/static/css/app.css", target) == path


@pytest.mark.parametrize(
    ("css", "path", "text"),
    [
        ("url(x.png)", "/static/css/x.H.png", "x.H.png"),
        ("url(./x.png?q#f)", "/static/css/x.H.png", "./x.H.png?q#f"),
        ("url(../img/x.png)", "/static/img/x.H.png", "../img/x.H.png"),
        ("url(/static/img/x.png#f)", "/static/img/x.H.png", "../img/x.H.png#f"),
        ("url('a b.png')", "/static/css/a b.H.png", "a%20b.H.png"),
        ("url('it\\'s(1).png')", "/static/css/it's(1).H.png", "./it%27s%281%29.H.png"),
    ],
)
def test_a1_a_reference_is_written_where_it_was(css: str, path: str, text: str) -> None:
    """In the author's own words where that is possible, and with nothing that needs quoting."""
    content = f"a {{ b: {css} }}".encode()
    (reference,) = find_references("x.css", content)
    written = content[reference.start : reference.end].decode()
    assert rewrite(reference, written, "/static/css/app.css", path) == text


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("app.css", "app.0123456789abcdef.css"),
        ("a.b/app.min.js", "a.b/app.min.0123456789abcdef.js"),
        ("LICENSE", "LICENSE.0123456789abcdef"),
        ("x/.hidden", "x/.hidden.0123456789abcdef"),
    ],
)
def test_a1_a_hash_goes_into_a_name_and_out_again(name: str, hashed: str) -> None:
    """Before the ending, so that types are known by it."""
    assert add_hash(name, "0123456789abcdef" * 6) == hashed
    assert split_hash(hashed) == (name, "0123456789abcdef")


@pytest.mark.parametrize(
    "name",
    ["app.css", "app.0123456789abcde.css", "app.0123456789ABCDEF.css", "x/.0123456789abcdef"],
)
def test_a1_what_carries_no_hash_is_seen(name: str) -> None:
    """Another length, capital letters, nothing before it."""
    assert split_hash(name) is None


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=4)))
def test_a1_children_come_before_parents_and_circles_together(
    graph: dict[int, list[int]],
) -> None:
    """Each node once; two are together if and only if each can be reached from the other."""

    def reach(start: int) -> set[int]:
        seen, waiting = set[int](), [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, [])
        return seen

    found = list(Components[int](lambda node: graph.get(node, [])).find(0))
    place = {node: index for index, nodes in enumerate(found) for node in nodes}
    assert sorted(place) == sorted(reach(0))
    assert sum(map(len, found)) == len(place)
    for (node, its), (other, others) in itertools.product(place.items(), repeat=2):
        together = other in reach(node) and node in reach(other)
        assert (its == others) == together
        if other in reach(node):
            assert others <= its
