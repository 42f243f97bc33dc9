"""Where the proxy may connect to."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from broker_worker.core.egress import Route, Send, Upstream, check_header_name, is_public
from broker_worker.core.policy import Origin
from broker_worker.egress.sending import address_of

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
    ("upstream", "whole"),
    [
        (Upstream("https", "api.example.com", 443), "https://api.example.com/v1/a%20b?x=%2e&y"),
        (Upstream("https", "api.example.com", 8443, ("base",)), "https://api.example.com:8443/base/v1/a%20b?x=%2e&y"),
        (Upstream("https", "2606:4700::1111", 443), "https://[2606:4700::1111]/v1/a%20b?x=%2e&y"),
        (Upstream("https", "2606:4700::1111", 8443), "https://[2606:4700::1111]:8443/v1/a%20b?x=%2e&y"),
    ],
)
def test_an_address_is_made_of_what_was_matched(upstream: Upstream, whole: str) -> None:
    """The upstream's origin and prefix, the path and the query: nothing is read or written in another way."""
    found = address_of(replace(route(), upstream=upstream), ("v1", "a%20b"), "x=%2e&y")
    assert (str(found), found.raw_path_qs) == (whole, whole[len(upstream.origin) :])
    assert found.port == upstream.port
