"""Where the proxy may connect to."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from multidict import CIMultiDict

from broker_worker.core.egress import Route, Send, Upstream, check_header_name, is_public
from broker_worker.core.policy import Origin
from broker_worker.egress.sending import request_head, target_of

INSIDE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.254", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:1::1", "100::1",
]  # fmt: skip
OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "104.18.6.192",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]

CLOUDS = ["192.0.0.192", "192.0.0.8", "168.63.129.16", "192.88.99.1", "3fff::1", "::ffff:168.63.129.16", "5f00::1"]


def route(scheme: str = "https", *private: str) -> Route:
    """A route with nothing but an upstream."""
    upstream = Upstream("https" if scheme == "https" else "http", "api.example.com", 443)
    networks = tuple(ip_network(each) for each in private)
    return Route("r", upstream, "a.b", Send("header", "X"), (), Origin("e", 1), allow_private=networks)


@pytest.mark.parametrize("text", [*INSIDE, *CLOUDS])
def test_what_lies_inside_is_not_public(text: str) -> None:
    """Private, local, shared, multicast and reserved addresses are refused, however they are written."""
    assert not is_public(ip_address(text))
    assert not route().may_connect(text)


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_lies_outside_is_public(text: str) -> None:
    """Addresses of the internet may be connected to, over TLS only."""
    assert route().may_connect(text)
    assert not route("http").may_connect(text)


def test_the_operator_can_name_networks() -> None:
    """What `allow_private` covers may be connected to, and nothing beside it; plain http stays on this host."""
    assert route("https", "10.0.0.0/8").may_connect("10.1.2.3")
    assert not route("https", "10.0.0.0/8").may_connect("192.168.1.1")
    assert not route("https", "10.0.0.0/8").may_connect("::1")
    assert route("http", "127.0.0.0/8").may_connect("127.0.0.1")
    assert not route("http", "10.0.0.0/8").may_connect("10.1.2.3")
    assert not route("http").may_connect("127.0.0.1")


@pytest.mark.parametrize("text", ["", "localhost", "fe80::1%eth0", "127.1", "0x7f.1", "2130706433", "127.0.0.1:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """Only an address in its usual form counts as one."""
    assert not route("https", "127.0.0.0/8", "::/0").may_connect(text)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "X Y", "X_Key", "", "X:"])
def test_a_value_goes_into_no_header_of_the_connection(name: str) -> None:
    """A header that carries the message itself cannot carry a value."""
    with pytest.raises(ValueError, match=r"expected"):
        check_header_name(name)


@pytest.mark.parametrize(
    ("upstream", "host", "target"),
    [
        (Upstream("https", "api.example.com", 443), "api.example.com", "/v1/a%20b?x=%2e&y"),
        (Upstream("https", "api.example.com", 8443, ("base",)), "api.example.com:8443", "/base/v1/a%20b?x=%2e&y"),
        (Upstream("https", "2606:4700::1111", 443), "[2606:4700::1111]", "/v1/a%20b?x=%2e&y"),
        (Upstream("https", "2606:4700::1111", 8443), "[2606:4700::1111]:8443", "/v1/a%20b?x=%2e&y"),
    ],
)
def test_a_call_is_made_of_what_was_matched(upstream: Upstream, host: str, target: str) -> None:
    """The upstream's host and prefix, the path and the query: nothing is read or written in another way."""
    assert upstream.authority == host
    assert target_of(replace(route(), upstream=upstream), ("v1", "a%20b"), "x=%2e&y") == target


@pytest.mark.parametrize(
    ("method", "target", "name", "value"),
    [
        ("GET", "/", "X", "1\r\nX-Admin: 1"),
        ("GET", "/", "X", "1\nX-Admin: 1"),
        ("GET", "/", "X", "1\rX-Admin: 1"),
        ("GET", "/", "X\r\nX-Admin", "1"),
        ("GET", "/ HTTP/1.1\r\nX-Admin: 1\r\n", "X", "1"),
        ("GET / HTTP/1.1\r\n", "/", "X", "1"),
        ("GET", "/", "X", "\u010a"),
    ],
)
def test_no_line_of_a_request_is_two(method: str, target: str, name: str, value: str) -> None:
    """Whatever was looked at before, nothing is sent in which a server would see a line that nobody put there."""
    with pytest.raises(ValueError, match="cannot be sent") as error:
        request_head(method, target, "api.example.com", CIMultiDict({name: value}), None)
    assert value not in str(error.value)


def test_the_head_of_a_request() -> None:
    """One line for the request, one for its host, one for each header and one for the body's end."""
    headers = CIMultiDict([("X", "1"), ("X", "2")])
    found = request_head("POST", "/v1?x", "api.example.com", headers, "Content-Length: 0")
    assert found == b"POST /v1?x HTTP/1.1\r\nHost: api.example.com\r\nX: 1\r\nX: 2\r\nContent-Length: 0\r\n\r\n"
