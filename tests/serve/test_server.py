"""How a service starts: its address and its token, before any model is loaded."""

import socket

import pytest

from mrm.serve.server import address_of, check_token, listen
from mrm.system.errors import ConfigError


@pytest.mark.parametrize("token", [None, "abcdefghijkl", "0" * 12, "a-b_c.d~e+f/g="])
def test_a_token_that_cannot_be_guessed_is_taken(token):
    check_token(token)


@pytest.mark.parametrize("token", ["", "abcdefghijk", "abcdef ghijkl", "abcdefghijk\u00e9", "abcdefghijkl\n"])
def test_a_token_that_can_be_guessed_or_does_not_fit_into_a_header_is_refused(token):
    with pytest.raises(ConfigError, match="a bearer token needs at least 12 ASCII characters without spaces"):
        check_token(token)


def test_an_address_that_is_taken_or_is_none_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of("127.0.0.1", listener) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(
            ConfigError, match=rf"cannot listen on 127\.0\.0\.1 port {port} .* choose another --port or --host"
        ):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port 70000"):
        listen("127.0.0.1", 70_000)


def test_an_address_of_ipv6_stands_in_brackets():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    try:
        listener = listen("::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 on this machine")
    with listener:
        assert address_of("::1", listener) == f"http://[::1]:{listener.getsockname()[1]}"
