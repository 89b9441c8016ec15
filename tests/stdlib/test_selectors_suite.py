"""The interpreter's own tests of selectors, run on pyloop.Selector with each backend.

All scenarios of ``BaseSelectorTestCase`` and ``ScalableSelectorMixIn`` run as they are, but for
one that replaces a private attribute of the standard library's classes: what it is about is
tested here with a real error.
"""

from __future__ import annotations

import errno
import selectors
import unittest
from typing import Any

import pytest

import pyloop

suite: Any = pytest.importorskip(
    "test.test_selectors", reason="this interpreter is installed without its tests"
)


def selector_class(backend: str) -> type[pyloop.Selector]:
    """A subclass that needs no arguments, as the scenarios call it."""

    def init(self: pyloop.Selector) -> None:
        pyloop.Selector.__init__(self, backend)

    return type(f"{backend}Selector", (pyloop.Selector,), {"__init__": init})


class Scenarios(suite.BaseSelectorTestCase, suite.ScalableSelectorMixIn):  # type: ignore[misc]
    SELECTOR: type[pyloop.Selector]

    def test_modify_unregister(self) -> None:
        """A modify() that fails leaves the descriptor unregistered."""
        with self.SELECTOR() as selector:
            left, right = self.make_socketpair()
            fd = left.fileno()
            selector.register(fd, selectors.EVENT_READ)
            left.close()
            with pytest.raises(OSError) as caught:
                selector.modify(fd, selectors.EVENT_WRITE)
            assert caught.value.errno == errno.EBADF
            assert len(selector.get_map()) == 0

    # Scenarios that the suite keeps in the classes of other selectors.
    test_register_bad_fd = suite.KqueueSelectorTestCase.test_register_bad_fd
    test_empty_select_timeout = suite.KqueueSelectorTestCase.test_empty_select_timeout


class TestEpoll(Scenarios, unittest.TestCase):
    SELECTOR = selector_class("epoll")

    if hasattr(suite.EpollSelectorTestCase, "test_register_file"):
        test_register_file = suite.EpollSelectorTestCase.test_register_file


class TestPoll(Scenarios, unittest.TestCase):
    SELECTOR = selector_class("poll")


def test_every_scenario_is_there() -> None:
    """Nothing that the suite has for a scalable selector is missed."""
    for case in (TestEpoll, TestPoll):
        for source in (suite.BaseSelectorTestCase, suite.ScalableSelectorMixIn):
            names = {name for name in vars(source) if name.startswith("test_")}
            assert names
            assert all(callable(getattr(case, name)) for name in names)
