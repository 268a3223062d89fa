"""Who watches a desktop: the full picture first, then what changes; the slow lose their queue, never their picture."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxyd.indexing import looking
from proxyd.indexing.frames import Patch, Shown
from proxyd.indexing.looking import Desk, NoPicture

pytestmark = pytest.mark.mission("M2", "M17")


class PlayedDesk(Desk):
    """A desk whose indexer is asked and answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []
        self.there = True

    def show(self, *, on: bool) -> bool:
        self.asked.append(on)
        return self.there


def shown(seq: int, *, whole: bool = False, size: int = 10) -> Shown:
    return Shown(1, seq, seq * 1000, 8, 8, whole, [Patch(0, 0, 8, 8, bytes(size))], (0, 0, True))


async def test_the_full_picture_comes_first_and_shows_all_there_was() -> None:
    desk = PlayedDesk()
    looker = desk.look(goal=5)
    desk.shown(shown(3))  # somebody else watches: these build on what this one has not
    async with trio.open_nursery() as nursery:
        taken: list[list[Shown]] = []

        async def take() -> None:
            taken.append(await looker.take())

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.asked == []  # what it would show is too old
        desk.shown(shown(4, whole=True))
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        desk.fed_seq = 5
        desk.serve()
        assert desk.asked == [True]
        desk.serve()
        assert desk.asked == [True]  # once for all
        desk.shown(shown(6, whole=True))
    desk.shown(shown(7))
    assert [[one.seq for one in part] for part in [*taken, await looker.take()]] == [[6], [7]]


async def test_a_slow_viewer_gets_a_full_picture_again_and_holds_no_more() -> None:
    desk = PlayedDesk()
    desk.fed_seq = 1
    slow, quick = desk.look(1), desk.look(1)
    desk.shown(shown(1, whole=True))
    for looker in (slow, quick):
        assert [one.seq for one in await looker.take()] == [1]
    for seq in range(2, 12):
        desk.shown(shown(seq, size=looking.WAITING_BYTES // 4))
        assert [one.seq for one in await quick.take()] == [seq]
    assert (slow.lost, quick.lost) == (1, 0)
    assert desk.asked == []  # while it does not wait for one
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.take)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.asked == [True]
        desk.shown(shown(12, whole=True))
    assert [one.seq for one in await quick.take()] == [12]


async def test_another_process_begins_with_a_full_picture() -> None:
    desk = PlayedDesk()
    desk.fed_seq = 9
    looker = desk.look(9)
    desk.shown(shown(9, whole=True))
    desk.restart()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.take)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.asked == []
        desk.shown(shown(4, whole=True))  # it reads the session from its beginning
        desk.fed_seq = 9
        desk.serve()
        assert desk.asked == [True]
        desk.shown(shown(9, whole=True))


async def test_the_end_is_told() -> None:
    desk = PlayedDesk()
    looker, late = desk.look(0), desk.look(0)
    desk.shown(shown(1, whole=True))
    desk.end()
    assert len(await looker.take()) == 1
    assert await looker.take() == []
    desk.error = "given up"
    await late.take()
    with pytest.raises(NoPicture, match="given up"):
        await late.take()
    desk.leave(looker)
    assert desk.asked == []
    desk.leave(late)
    assert desk.asked == [False]
