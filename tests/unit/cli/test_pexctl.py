"""
C{pexctl}: its output, where that goes, and its exit status.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from pexservice.cli.output import failure_of
from pexservice.cli.pexctl import PARSER
from pexservice.cli.verb import STORE_STATUSES, VERBS, base_url
from pexservice.process import scoreboard
from pexservice.process.exit_status import Status
from pexservice.stores.errors import StoreError, StoreIncompatible
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE, Directory
from tests.support.daemon import captured
from tests.support.pexctl import called
from tests.support.stores import make_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """
    Provide a store at position 7.
    """
    make_store(tmp_path / "store", 7)
    return tmp_path / "store"


@pytest.mark.parametrize("arguments", [["status", "--help"], ["verify", "x"]])
def test_a_verb_imports_only_the_modules_it_needs(
    tmp_path: Path, arguments: list[str]
) -> None:
    """
    A verb that reads a store imports no web client, and the help imports no Twisted.
    """
    program = (
        "import sys; from pexservice.cli.pexctl import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    # The help comes from docstrings, and without them it is shorter.
    ended = captured([sys.executable, "-OO", "-c", program, *arguments], cwd=tmp_path)
    assert ended.returncode == 0
    imported = set(ended.stderr.splitlines()[-1].split())
    assert not imported & {"treq", "twisted.web.client", "twisted.internet.reactor"}
    if "--help" in arguments:
        assert "twisted" not in imported


def statuses(text: str) -> set[int]:
    return set(map(int, re.findall(r"^  (\d+) ", text, re.MULTILINE)))


def test_help_lists_every_verb_and_every_exit_status() -> None:
    shown = called("--help")
    assert called("help") == shown
    assert shown.status == 0
    assert statuses(shown.out) == {0, 1, 2, 64, 69, 75, 78, 130}
    for verb in VERBS:
        assert f"\n    {verb} " in shown.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_valid_examples_and_only_its_own_statuses(verb: str) -> None:
    shown = called(verb, "--help")
    assert called("help", verb) == shown
    assert shown.status == 0
    examples = re.findall(rf"^  pexctl ({verb}\b.*)", shown.out, re.MULTILINE)
    assert examples
    for example in examples:
        if verb not in ("check", "create"):
            PARSER.parse_args(example.split())
    # Only steps have an unknown outcome, and only stores are damaged.
    steps = ("next", "previous", "reset", "load")
    stores = ("check", "create", "verify", "backup", "restore", "advance")
    assert (75 in statuses(shown.out)) == (verb in steps)
    assert (78 in statuses(shown.out)) == (verb in stores)


def test_version_is_a_verb_and_an_option() -> None:
    status, line, _ = called("version")
    assert status == 0
    assert re.fullmatch(r"pexctl [0-9.]+\n", line)
    assert called("version", "--json").json == {"version": line.split()[1]}
    assert called("--version") == (0, line, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["sing"], "there is no command sing; see pexctl help"),
        (["statsu"], "there is no command statsu (did you mean status?)"),
        (["pexservce"], "there is no command pexservce (did you mean twistd pexservice?)"),
        (["\x1b[2J"], r"there is no command \x1b[2J;"),
        (["help", "nxt"], "there is no command nxt (did you mean next?)"),
        (["next", "--prot", "8082"], "there is no argument --prot; see pexctl help next"),
        (["next", "--port=8082"], "there is no argument --port (did you mean --url?)"),
        (["load", "--second", "3"], "argument --second (did you mean --seconds?)"),
        (["next", "now"], "usage: pexctl next"),
        (["backup"], "required: TO"),
        (["backup", "to"], "name the STORE or --config FILE, and not both"),
        (["backup", "--config", "file", "store", "to"], "STORE or --config FILE, and not"),
        (["backup", "store", "to", "--textfile", "file"], "--textfile requires --keep"),
        (["status", "gopher:x"], "'http://gopher:x' is not a base URL; use http://HOST"),
        (["status", "http:/user:secret@h"], "'http:/...@h' is not a base URL"),
        (["current", "--url", "8081"], "8081: there is no host; use localhost:8081"),
        (["verify", "etcd:http://h:2379"], "etcd:http://h:2379: this is a store in etcd"),
        (["backup", "http://h:2379", "to"], "http://h:2379: this is a store in etcd"),
        (["verify", "etcd:http://u:s3@h"], "argument STORE: etcd:http://...@h: must have"),
        (["advance", "--store", "lmdb:x", "7"], "--store: lmdb:x: must be a store on etcd"),
        (["verify", ""], "the name of the directory is empty"),
        (["restore", "backup", "--to", "lmdb:"], "lmdb:: must be lmdb:DIRECTORY"),
        (["verify", "\udce4"], "its absolute path must be UTF-8"),
        (["status", "--timeout", "0"], "0: must be 0.001 seconds or more"),
        (["history", "--limit=0"], "argument --limit: 0: must be 1 or more"),
        (["reload", "0"], "0: must be from 1 to 4194303"),
        (["backup", "store", "to", "--keep", "0"], "0: must be 1 or more"),
        (["restore", "a", "--to", "b", "--beyond", "x"], "x: must be a number of at most"),
        (["load", "--connections", "1001"], "1001: must be from 1 to 1000"),
    ],
)
def test_wrong_command_line_ends_with_2_and_says_what_is_wrong(
    arguments: list[str], message: str
) -> None:
    ended = called(*arguments)
    assert ended.status == 2
    assert message in ended.err


def contents(path: Path, outcome: str) -> dict[str, object]:
    """
    Return the object that a verb prints for the store of L{store} or its copy.
    """
    facts = {"revision": 7, "position": 7, "size": (path / DATA_FILE).stat().st_size}
    return {"outcome": outcome, "store": str(path), **facts, "witness": 7}


def test_verify_prints_the_contents_of_a_store_and_says_when_it_has_no_witness(
    store: Path,
) -> None:
    whole = contents(store, "whole")
    line = f"{store} is whole: revision 7, position 7, {whole['size']} bytes"
    assert called("verify", str(store)) == (0, f"{line}\n", "")
    assert called("verify", "--json", f"lmdb:{store}").json == whole
    (store / WITNESS_FILE).unlink()
    words = "; it has no witness, so this may not be its newest state\n"
    assert called("verify", str(store)) == (0, f"{line}{words}", "")
    assert called("verify", "--json", str(store)).json["witness"] is None


def test_verify_of_a_damaged_store_ends_with_78(store: Path) -> None:
    """
    The line about the damage is on standard error even with C{--json}.
    """
    (store / DATA_FILE).write_bytes(b"")
    status, out, err = called("verify", str(store))
    assert (status, out, err.count("\n")) == (78, "", 1)
    assert err.startswith(f"pexctl: the store {store} is damaged: ")
    again = called("verify", "--json", str(store))
    assert (again.status, again.err) == (78, err)
    message = err.removeprefix("pexctl: ").strip()
    assert again.json == {"outcome": "damaged", "error": message}


def test_verify_refuses_a_store_in_use_which_stays_in_use(store: Path) -> None:
    holder = Directory(str(store))
    holder.lock()
    refused = called("verify", str(store))
    assert refused.status == 1
    assert f"is in use by process {os.getpid()}; make a backup" in refused.err
    holder.unlock()
    assert called("verify", str(store)).status == 0


@pytest.mark.parametrize("name", [DATA_FILE, WITNESS_FILE])
def test_verify_refuses_a_fifo_instead_of_waiting_for_it(store: Path, name: str) -> None:
    (store / name).unlink()
    os.mkfifo(store / name)
    refused = called("verify", str(store))
    assert refused.status == 1
    assert f"cannot be opened: {name} is not a regular file" in refused.err


@pytest.mark.parametrize("error", [StoreError, *StoreError.__subclasses__()])
def test_error_of_a_store_ends_with_a_status_that_the_help_lists(
    error: type[StoreError],
) -> None:
    failure = failure_of(error("the store"))
    assert failure.exit_status in STORE_STATUSES
    # A store of another format is not damaged.
    incompatible = (failure.outcome, failure.exit_status) == ("incompatible", 64)
    assert incompatible == (error is StoreIncompatible)


def test_verify_of_a_missing_store_creates_no_directory(tmp_path: Path) -> None:
    ended = called("verify", str(tmp_path / "store"))
    assert ended.status == 1
    assert ended.err.endswith(f"there is no store in {tmp_path}/store\n")
    assert not list(tmp_path.iterdir())


def test_backup_to_the_same_place_again_is_refused(store: Path) -> None:
    copy = store.parent / "copy"
    backup = called("backup", "--json", str(store), str(copy))
    assert backup.json == contents(copy, "backed-up")
    message = f"pexctl: {copy} already exists; choose another path\n"
    assert called("backup", str(store), str(copy)) == (1, "", message)


def test_backup_of_a_configured_store_writes_its_revision_for_prometheus(
    store: Path,
) -> None:
    config, backups = store.parent / "pexservice.toml", store.parent / "backups"
    metrics = store.parent / "pexservice.prom"
    config.write_text('store = "lmdb:store"\n')
    backups.mkdir()
    options = ("--config", str(config), "--keep", "2", "--textfile", str(metrics))

    def written(name: str) -> str:
        label = f'pexservice_backup_{name}{{store="{store}"}} '
        (line,) = re.findall(
            rf"^{re.escape(label)}(.+)$", metrics.read_text(), re.MULTILINE
        )
        return str(line)

    assert called("backup", *options, str(backups)).status == 0
    assert (written("revision"), written("failed")) == ("7.0", "0.0")
    # After a failure the newest backup still counts.
    store.rename(store.parent / "gone")
    assert called("backup", *options, str(backups)).status == 1
    assert (written("revision"), written("failed")) == ("7.0", "1.0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "store = None: must be lmdb:DIRECTORY"),
        ('store = "etcd:http://h:2379"', "etcdctl snapshot save"),
        ("stroe = 1", "there is no stroe (did you mean store?)"),
    ],
)
def test_backup_needs_a_configuration_file_that_names_a_store_on_disk(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "pexservice.toml").write_text(text)
    config = ("--config", str(tmp_path / "pexservice.toml"))
    ended = called("backup", *config, str(tmp_path / "to"))
    assert ended.status == Status.MISCONFIGURED
    assert reason in ended.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8081", "http://localhost:8081"),
        ("localhost", "http://localhost"),
        ("pex.example.org/fibonacci", "http://pex.example.org/fibonacci"),
        ("[::1]:8081", "http://[::1]:8081"),
        ("https://h:1", "https://h:1"),
        ("unix:8081", "unix:8081"),
    ],
)
def test_http_is_assumed_for_a_url_without_a_scheme(text: str, expected: str) -> None:
    assert str(base_url(text)) == expected


def test_restore_without_a_number_goes_beyond_the_replaced_store_or_its_witness(
    store: Path,
) -> None:
    place = store.parent / "replaced"
    arguments = ("restore", str(store), "--to", str(place), "--beyond")
    refused = called(*arguments)
    assert refused.status == 1
    assert f"the revision of {place} cannot be read: there is no store" in refused.err
    make_store(place, 9)
    status, line, _ = called(*arguments)
    assert status == 0
    assert re.search(r"is restored: revision 100001[01], position 7,", line)
    assert (
        "; beyond revision 1000009: 9 in the witness of the replaced store, plus 1,000,000;"
        f" the replaced store is {place}.before-" in line
    )
    (place / WITNESS_FILE).unlink()
    again = called(*arguments, "--json").json
    assert again["beyond"] - again["steps"] <= 1_000_010 < again["beyond"]


def test_status_of_a_service_that_cannot_be_reached_is_69(tmp_path: Path) -> None:
    ended = called("status", f"unix:{tmp_path}/socket", "--json")
    assert (ended.status, ended.json["outcome"]) == (69, "unreachable")
    assert ended.err == f"pexctl: unix:{tmp_path}/socket: No such file or directory\n"


@pytest.mark.parametrize("url", ["http://user:ge heim@h", "http://user:geheim@h"])
def test_error_for_a_url_of_the_environment_shows_no_password(url: str) -> None:
    ended = called("status", env={"PEXSERVICE_URL": f"http://127.0.0.1:1 {url}"})
    assert ended.status == 2
    words = "pexctl: PEXSERVICE_URL: a base URL has no user and no password"
    assert ended.err.startswith(words)
    assert "user:" not in ended.err


@pytest.mark.parametrize(
    ("user", "hint"), [(0, ""), (1000, "; reload as the service's user or as root")]
)
def test_reload_without_permission_advises_only_other_users_to_be_root(
    monkeypatch: pytest.MonkeyPatch, user: int, hint: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scoreboard, "of_process", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    message = f"pexctl: process 1: Permission denied{hint}\n"
    assert called("reload", "1") == (69, "", message)


@pytest.mark.parametrize("verb", ["status", "next"])
@pytest.mark.parametrize(
    ("name", "words"), [("missing.pem", "No such file"), ("empty.pem", "no certificate")]
)
def test_file_of_authorities_that_cannot_be_used_is_named(
    tmp_path: Path, verb: str, name: str, words: str
) -> None:
    (tmp_path / "empty.pem").touch()
    path = str(tmp_path / name)
    ended = called(verb, "--url", "https://127.0.0.1:1", "--ca-file", path)
    assert ended.status == 2
    assert path in ended.err
    assert words in ended.err
