"""A session token is good for its user, for its time, and for the reconnects of the session it opened."""

from __future__ import annotations

from proxyd.tokens import LIFETIME, MAX_PER_USER, RECONNECT, Token, Tokens
from proxyd.verifiers import nt_key


def found(tokens: Tokens, text: str, now: float, user: str = "ann") -> Token | None:
    token = tokens.find(user, nt_key(text), now)
    assert (token is not None) == (nt_key(text) in tokens.nt_keys(user, now))
    return token


def test_it_opens_its_target_for_its_user_until_it_expires() -> None:
    tokens = Tokens()
    issued = tokens.issue("ann", "web", 100.0)
    assert issued.expires == 100.0 + LIFETIME
    token = found(tokens, issued.text, issued.expires - 1)
    assert token and (token.user, token.target) == ("ann", "web")
    assert found(tokens, issued.text, issued.expires) is None
    assert found(tokens, issued.text, 100.0, user="bob") is None
    assert found(tokens, issued.text + "x", 100.0) is None


def test_each_is_another_and_can_be_typed() -> None:
    tokens = Tokens()
    texts = {tokens.issue("ann", "web", 0).text for _ in range(20)}
    assert len(texts) == 20
    assert all(len(text) == 24 and text.isalnum() and text == text.lower() for text in texts)


def test_a_session_keeps_it_good_for_reconnects_and_for_a_while_behind_its_end() -> None:
    tokens = Tokens()
    text = tokens.issue("ann", "web", 0).text
    token = found(tokens, text, 1)
    assert token
    tokens.began(token)
    assert found(tokens, text, 10 * LIFETIME) is token  # its line broke, and nobody has noticed yet
    tokens.began(token)
    tokens.ended(token, 10 * LIFETIME)
    assert found(tokens, text, 20 * LIFETIME) is token
    tokens.ended(token, 20 * LIFETIME)
    assert found(tokens, text, 20 * LIFETIME + RECONNECT - 1) is token
    assert found(tokens, text, 20 * LIFETIME + RECONNECT) is None


def test_a_short_session_leaves_the_time_to_reconnect_and_not_the_longer_lifetime() -> None:
    tokens = Tokens(lifetime=3600, reconnect=60)
    text = tokens.issue("ann", "web", 0).text
    token = found(tokens, text, 1)
    assert token
    tokens.began(token)
    tokens.ended(token, 2)
    assert found(tokens, text, 61) is token
    assert found(tokens, text, 62) is None


def test_a_dropped_session_does_not_come_back() -> None:
    tokens = Tokens()
    text = tokens.issue("ann", "web", 0).text
    token = found(tokens, text, 1)
    assert token
    tokens.began(token)
    tokens.revoke(token)
    assert found(tokens, text, 1) is None
    tokens.ended(token, 2)
    tokens.revoke(token)
    assert found(tokens, text, 3) is None


def test_a_user_has_a_bounded_number_and_the_oldest_goes() -> None:
    tokens = Tokens()
    texts = [tokens.issue("ann", "web", 0).text for _ in range(MAX_PER_USER + 1)]
    assert found(tokens, texts[0], 0) is None
    assert all(found(tokens, text, 0) for text in texts[1:])
    assert len(tokens.nt_keys("ann", 0)) == MAX_PER_USER


def test_expired_ones_are_forgotten() -> None:
    tokens = Tokens()
    for user in ("ann", "bob"):
        tokens.issue(user, "web", 0)
    tokens.issue("eve", "web", LIFETIME)
    assert list(tokens._of) == ["eve"]


def test_no_repr_shows_one() -> None:
    tokens = Tokens()
    issued = tokens.issue("ann", "web", 0)
    token = tokens.find("ann", nt_key(issued.text), 0)
    assert issued.text not in repr(issued)
    assert (
        token
        and nt_key(issued.text).hex() not in repr(token)
        and repr(nt_key(issued.text)) not in repr(token)
    )
