"""
Values with more digits than Python converts by default.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import WORKER, Daemon
from tests.support.forms import amount
from tests.support.stores import make_store
from tests.unit.core.test_sequence import (
    fibonacci,
    unlimited_int_digits,  # noqa: F401 a fixture that each test uses
)

#: F(20,578) is the first value with more digits than str() converts by default.
STEPS = 20_600

#: The test starts at this position.
START = amount(short=20_570, long=0)


def test_values_beyond_4300_digits_are_exact(tmp_path: Path) -> None:
    """
    Each value is the sum of the two before it.  An independent computation checks the last.
    """
    make_store(tmp_path / "pexservice-data", START)
    with Daemon(tmp_path, command=WORKER) as daemon:
        connection = daemon.connect()
        value, before = fibonacci(START)
        before -= value
        for position in range(START + 1, STEPS + 1):
            connection.request("POST", "/next")
            response = connection.getresponse()
            body = response.read()
            before, value = value, before + value
            assert int(response.headers["Pex-Position"]) == position
            assert int(response.headers["Content-Length"]) == len(body)
            # Converting an int takes quadratic time, so not every value is compared.
            if position % 10 == 0:
                assert body == b"%d\n" % value
        connection.close()
    assert body.decode() == f"{fibonacci(STEPS)[0]}\n"
    assert len(body) == 4306
