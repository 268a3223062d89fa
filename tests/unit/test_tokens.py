"""A session token is good for its user, for its time, and for the reconnects of the session it opened."""

from __future__ import annotations

from proxyd.tokens import LIFETIME, MAX_PER_USER, RECONNECT, Issued, Token, Tokens
from proxyd.verifiers import nt_key


def issue(tokens: Tokens, user: str = "ann", now: float = 0, lifetime: float = LIFETIME) -> Issued:
    return tokens.issue(user, "web", now, issuer="root", lifetime=lifetime)


def found(tokens: Tokens, text: str, now: float, user: str = "ann") -> Token | None:
    token = tokens.find(user, text, now)
    assert (token is not None) == (nt_key(text) in {one.nt_key for one in tokens.good(user, now)})
    return token


def test_it_opens_its_target_for_its_user_until_it_expires() -> None:
    tokens = Tokens()
    issued = issue(tokens, now=100.0)
    assert issued.expires == 100.0 + LIFETIME
    token = found(tokens, issued.text, issued.expires - 1)
    assert token and (token.user, token.target, token.issuer) == ("ann", "web", "root")
    assert found(tokens, issued.text, issued.expires) is None
    assert found(tokens, issued.text, 100.0, user="bob") is None
    assert found(tokens, issued.text + "x", 100.0) is None


def test_each_is_another_and_can_be_typed() -> None:
    tokens = Tokens()
    texts = {issue(tokens).text for _ in range(20)}
    assert len(texts) == 20
    assert all(len(text) == 24 and text.isalnum() and text == text.lower() for text in texts)


def test_a_session_keeps_it_good_for_reconnects_and_for_a_while_behind_its_end() -> None:
    tokens, now = Tokens(), [1.0]
    text = issue(tokens).text
    token = found(tokens, text, 1)
    with tokens.opening(token, lambda: now[0]):
        assert found(tokens, text, 10 * LIFETIME) is token  # its line broke, and nobody has noticed yet
        with tokens.opening(token, lambda: now[0]):
            now[0] = 10 * LIFETIME
        assert found(tokens, text, 20 * LIFETIME) is token
        now[0] = 20 * LIFETIME
    assert found(tokens, text, now[0] + RECONNECT - 1) is token
    assert found(tokens, text, now[0] + RECONNECT) is None


def test_a_short_session_leaves_the_time_to_reconnect_and_not_the_longer_lifetime() -> None:
    tokens = Tokens(reconnect=60)
    text = issue(tokens, lifetime=3600).text
    with tokens.opening(found(tokens, text, 1), lambda: 2.0):
        pass
    assert found(tokens, text, 61)
    assert found(tokens, text, 62) is None


def test_a_session_that_nobody_s_token_opened_changes_none() -> None:
    tokens = Tokens()
    issued = issue(tokens)
    with tokens.opening(None, lambda: 2.0):
        pass
    assert found(tokens, issued.text, issued.expires - 1)


def test_a_dropped_session_does_not_come_back() -> None:
    tokens = Tokens()
    text = issue(tokens).text
    token = found(tokens, text, 1)
    assert token
    with tokens.opening(token, lambda: 2.0):
        tokens.revoke(token)
        assert found(tokens, text, 1) is None
    assert found(tokens, text, 3) is None
    tokens.revoke(token)


def test_all_of_a_user_or_of_a_target_are_revoked() -> None:
    tokens = Tokens()
    web, db, other = (
        tokens.issue(user, target, 0, issuer="root").text
        for user, target in (("ann", "web"), ("ann", "db"), ("bob", "web"))
    )
    assert tokens.revoke_all("ann", "web") == 1
    assert found(tokens, web, 1) is None
    assert found(tokens, db, 1)
    assert tokens.revoke_all("ann") == 1
    assert tokens.revoke_all("ann") == 0
    assert found(tokens, db, 1) is None
    assert found(tokens, other, 1, user="bob")


def test_a_user_has_a_bounded_number_and_the_oldest_goes() -> None:
    tokens = Tokens()
    texts = [issue(tokens).text for _ in range(MAX_PER_USER + 1)]
    assert found(tokens, texts[0], 0) is None
    assert all(found(tokens, text, 0) for text in texts[1:])
    assert len(tokens.good("ann", 0)) == MAX_PER_USER


def test_expired_ones_are_forgotten() -> None:
    tokens = Tokens()
    for user in ("ann", "bob"):
        issue(tokens, user)
    issue(tokens, "eve", LIFETIME)
    assert list(tokens._of) == ["eve"]


def test_no_repr_shows_one() -> None:
    tokens = Tokens()
    issued = issue(tokens)
    token = tokens.find("ann", issued.text, 0)
    assert token
    for shown in (repr(issued), repr(token)):
        for secret in (issued.text, nt_key(issued.text).hex(), repr(nt_key(issued.text))):
            assert secret not in shown
