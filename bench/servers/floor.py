"""
The floor: what anybody would write first, a plain Klein application with the cursor in
memory.  C{python -m bench.servers.floor PORT}
"""

import sys

from klein import Klein
from twisted.web.iweb import IRequest

app = Klein()
before, value = 1, 0


@app.route("/current")
def current(_: IRequest) -> str:
    """
    Where the cursor is.
    """
    return f"{value}\n"


@app.route("/next")
def forward(_: IRequest) -> str:
    """
    One up.
    """
    global before, value
    before, value = value, before + value
    return f"{value}\n"


@app.route("/previous")
def backward(_: IRequest) -> str:
    """
    One down.
    """
    global before, value
    if value:
        before, value = value - before, before
    return f"{value}\n"


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]))
