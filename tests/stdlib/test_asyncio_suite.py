"""CPython's own tests of asyncio are the specification of our loop: each passes, or is listed.

run_asyncio_suite.py tells how they are run, expected.py which ones look into private parts.
"""

import faulthandler
from concurrent.futures import ThreadPoolExecutor

import pytest
from expected import EXPECTED
from run_asyncio_suite import MODULES, Outcome, is_available, run_tests

pytestmark = [
    pytest.mark.heavy,
    # The first test waits for all modules.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not is_available("test_asyncio"), reason="no test.test_asyncio here"),
]

Result = tuple[dict[str, Outcome], int]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> dict[str, Result]:
    """How the modules ended whose tests were selected; two run at a time."""
    faulthandler.cancel_dump_traceback_later()  # pytest's: this takes long, and is no hang
    wanted = {
        item.callspec.params["module"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    names = [name for name in MODULES if name in wanted and is_available(name)]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: run_tests([name]), names), strict=True))


def fails_on_asyncio_too(test: str) -> bool:
    """Whether it is this machine that lacks something: a network, a locale, time."""
    outcomes, _ = run_tests([test], "asyncio")
    return test in outcomes and outcomes[test].is_bad


@pytest.mark.parametrize("module", MODULES)
def test_module(module: str, results: dict[str, Result]) -> None:
    if module not in results:
        pytest.skip(f"this Python has no test.{module}")
    outcomes, loops = results[module]
    assert loops > 0, "the tests did not run on our loop"
    surprises = {}
    for test, outcome in outcomes.items():
        if test in EXPECTED or not outcome.is_bad:
            continue
        # Once more, alone: many of these tests count on time that a busy machine may not give.
        again, _ = run_tests([test])
        if test not in again or again[test].is_bad and not fails_on_asyncio_too(test):
            surprises[test] = outcome
    assert not surprises, "\n\n".join(
        f"{outcome.kind}: {test}\n{outcome.text}" for test, outcome in surprises.items()
    )
    expected = [test for test in EXPECTED if test.startswith(f"{module}.")]
    missing = [test for test in expected if test not in outcomes]
    assert not missing, f"expected.py lists tests that do not exist: {missing}"
    needless = [test for test in expected if not outcomes[test].is_bad]
    assert not needless, f"expected.py lists tests that do not fail: {needless}"
