"""The tests of CPython that must fail on pyloop's loop, each with its reason.

A test may stand here only if it looks into private parts of asyncio's own loop, and only as long
as it does fail: one that passes is to be taken out.
"""

import sys

_SELF_PIPE = (
    "counts asyncio's self-pipe (_internal_fds, _ssock, _csock); "
    "pyloop's reactor has a wake-up of its own"
)
_SIGNAL_MOCK = (
    "puts a mock in the place of `signal` inside of asyncio.unix_events and looks at the calls; "
    "pyloop calls the module itself, and sets the wake-up descriptor in C"
)
_SYS_MOCK = "puts a mock in the place of `sys` inside of asyncio.unix_events"
_RUNNING_LOOP = (
    "puts Python functions in the place of asyncio.events._get_running_loop and its like; pyloop "
    "uses those of _asyncio that it found when it was imported"
)

_EVENTS = "test_asyncio.test_events."
_SIGNALS = "test_asyncio.test_unix_events.SelectorEventLoopSignalTests."

_ON_EVERY_VERSION = {
    f"{_EVENTS}EPollEventLoopTests.test_internal_fds": _SELF_PIPE,
    f"{_EVENTS}PollEventLoopTests.test_internal_fds": _SELF_PIPE,
    f"{_EVENTS}SelectEventLoopTests.test_internal_fds": _SELF_PIPE,
    f"{_EVENTS}TestPyGetEventLoop.test_get_event_loop_returns_running_loop": _RUNNING_LOOP,
    f"{_EVENTS}TestPyGetEventLoop.test_get_event_loop_returns_running_loop2": _RUNNING_LOOP,
    f"{_SIGNALS}test_add_signal_handler_install_error": _SIGNAL_MOCK,
    f"{_SIGNALS}test_add_signal_handler_install_error2": _SIGNAL_MOCK,
    f"{_SIGNALS}test_add_signal_handler_install_error3": _SIGNAL_MOCK,
    f"{_SIGNALS}test_add_signal_handler_setup_error": _SIGNAL_MOCK,
    f"{_SIGNALS}test_close": _SIGNAL_MOCK,
    f"{_SIGNALS}test_close_on_finalizing": _SYS_MOCK,
    f"{_SIGNALS}test_remove_signal_handler": _SIGNAL_MOCK,
    f"{_SIGNALS}test_remove_signal_handler_2": _SIGNAL_MOCK,
    f"{_SIGNALS}test_remove_signal_handler_error": _SIGNAL_MOCK,
    f"{_SIGNALS}test_remove_signal_handler_error2": _SIGNAL_MOCK,
}

# What is to be expected on one minor version only.
_ON_ONE_VERSION: dict[tuple[int, int], dict[str, str]] = {}

EXPECTED = _ON_EVERY_VERSION | _ON_ONE_VERSION.get(sys.version_info[:2], {})
