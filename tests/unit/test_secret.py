"""Secrets: no way of looking at one shows its text."""

import copy
import json
import logging
import pickle
import pprint

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import secret
from gpuslice.secret import Secret

TEXT = "eyJhbGciOiJSUzI1NiJ9.token.signature"


def test_what_is_shown_is_the_beginning_of_the_digest():
    assert secret.digest("abc") == "sha256:ba7816bf8f01"
    assert secret.is_digest(secret.digest(TEXT))
    assert not secret.is_digest(TEXT) and not secret.is_digest("sha256:BA7816BF8F01") and not secret.is_digest("")


@pytest.mark.parametrize(
    "look",
    [
        str,
        repr,
        "{}".format,
        "{:>20}".format,
        lambda it: f"{it!r} {it!s} {it}",
        lambda it: "%s %r".__mod__((it, it)),
        lambda it: "/".join(["a", it]),
        lambda it: it + "x",
        lambda it: str({"token": it}),
        lambda it: json.dumps({"token": it}),
        lambda it: json.dumps({"token": it}, indent=1),
        lambda it: json.dumps({it: 1}),
        lambda it: msgpack.packb({"token": it}).decode("latin-1"),
        lambda it: pickle.dumps(it).decode("latin-1"),
        pprint.pformat,
        lambda it: it.encode().decode(),
        lambda it: "".join(it),
        lambda it: it.upper().lower(),
        lambda it: str(ValueError(it)),
    ],
)
def test_no_look_at_a_secret_shows_its_text(look):
    made = Secret(TEXT)
    shown = look(made)
    assert TEXT not in shown and "token.sig" not in shown
    assert secret.digest(TEXT) in shown


def test_a_log_record_shows_only_the_digest(caplog):
    with caplog.at_level(logging.INFO):
        logging.getLogger("gpuslice").info("the token %s is %r", Secret(TEXT), {"token": Secret(TEXT)})
    assert TEXT not in caplog.text and secret.digest(TEXT) in caplog.text


def test_the_text_comes_out_where_it_is_asked_for_and_survives_copies():
    settings = {"client_token": Secret(TEXT), "list": [Secret(TEXT)]}
    for made in (settings, dict(settings), copy.copy(settings), copy.deepcopy(settings), {**settings}):
        assert made["client_token"].reveal() == TEXT and made["list"][0].reveal() == TEXT
        assert made == settings
    assert Secret(Secret(TEXT)).reveal() == TEXT


def test_a_pickled_copy_is_the_digest_alone():
    back = pickle.loads(pickle.dumps(Secret(TEXT)))
    assert type(back) is str and back == secret.digest(TEXT)


@given(st.text(), st.text())
def test_secrets_are_equal_when_their_texts_are_also_after_json(one, other):
    assert (Secret(one) == Secret(other)) is (one == other)
    assert (json.loads(json.dumps(Secret(one))) == Secret(other)) is (one == other)
    assert hash(Secret(one)) == hash(Secret(one))
