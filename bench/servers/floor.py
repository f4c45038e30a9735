"""
The lower bound: a plain Klein application with the cursor in memory.

Its command is C{python -m bench.servers.floor PORT}.
"""

import sys

from klein import Klein
from twisted.web.iweb import IRequest

app = Klein()
before, value = 1, 0


@app.route("/current")
def current(_: IRequest) -> str:
    return f"{value}\n"


@app.route("/next")
def forward(_: IRequest) -> str:
    global before, value
    before, value = value, before + value
    return f"{value}\n"


@app.route("/previous")
def backward(_: IRequest) -> str:
    """
    Move the cursor down, but not below 0.
    """
    global before, value
    if value:
        before, value = value - before, before
    return f"{value}\n"


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]))
