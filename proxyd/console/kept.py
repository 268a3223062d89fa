"""What took time to make and may be wanted again, kept by its name: the least wanted goes first. For any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Thing = TypeVar("Thing")


class Kept(Generic[Name, Thing]):
    """At most `most` things."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._things: OrderedDict[Name, Thing] = OrderedDict()

    def get(self, name: Name) -> Thing | None:
        """Give what is kept; None when it is not."""
        with self._lock:
            if name in self._things:
                self._things.move_to_end(name)
            return self._things.get(name)

    def of(self, name: Name, make: Callable[[], Thing]) -> Thing:
        """Give what is kept, or make it; raises what making it raises."""
        found = self.get(name)
        if found is None:
            found = make()
            with self._lock:
                self._things[name] = found
                while len(self._things) > self._most:
                    self._things.popitem(last=False)
        return found

    def drop(self, name: Name) -> None:
        """Keep it no longer."""
        with self._lock:
            self._things.pop(name, None)
