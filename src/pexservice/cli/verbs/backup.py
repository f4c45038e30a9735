"""
C{pexctl backup}: copy a store, once or again and again.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_directory, number
from pexservice.cli.output import Result


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments for the store, the copy, and the metrics.
    """
    add_directory(
        parser, "store", "the store's directory, unless --config names it", optional=True
    )
    add_directory(
        parser,
        "to",
        "the copy's directory, to be made; with --keep, the directory of all copies",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="copy the store that this configuration file of the service names",
    )
    parser.add_argument(
        "--keep",
        metavar="N",
        type=number(1),
        help="name the copy by the time, and remove all but the newest N",
    )
    parser.add_argument(
        "--textfile",
        metavar="FILE",
        help="write how it went for Prometheus' node exporter; takes --keep",
    )


def run(arguments: Namespace) -> Result:
    """
    Copy the store, and write the metrics if they are asked for.
    """
    from attrs import asdict

    from pexservice.cli.output import ProgressBar, VerbFailed
    from pexservice.cli.store_access import (
        configured_directory,
        contents,
        failing_as_a_verb,
    )
    from pexservice.stores.lmdb.backup import backup
    from pexservice.stores.lmdb.rotation import add_backup

    if (arguments.store is None) is (arguments.config is None):
        raise VerbFailed("name the STORE or --config FILE, and not both", "none", 2)
    store = arguments.store or configured_directory(arguments.config)
    if arguments.keep is None:
        if arguments.textfile is not None:
            raise VerbFailed("--textfile requires --keep")
        with failing_as_a_verb(), ProgressBar() as bar:
            made = backup(store, arguments.to, bar.show)
    else:
        failed = True
        try:
            with failing_as_a_verb(), ProgressBar() as bar:
                made = add_backup(store, arguments.to, arguments.keep, bar.show)
            failed = False
        finally:
            if arguments.textfile is not None:
                _write_textfile(arguments.textfile, store, arguments.to, failed=failed)
    return Result(
        f"{made.store} is a verified backup: {contents(made)}",
        {"outcome": "backed-up", **asdict(made)},
    )


def _write_textfile(name: str, store: str, directory: str, *, failed: bool) -> None:
    """
    Write the metrics into a file, whole or not at all, that every user may read.
    """
    import json
    from pathlib import Path

    from pexservice.cli.output import VerbFailed
    from pexservice.stores.lmdb.rotation import existing_backups, time_of
    from pexservice.stores.lmdb.witness import read_witness

    try:
        backups = existing_backups(directory)
    except OSError:
        backups = []
    samples = {
        "failed": ("Whether the last backup failed.", int(failed)),
        "kept": ("Verified backups that there are.", len(backups)),
    }
    if backups:
        words = "When the newest verified backup was begun, in seconds since 1970."
        samples["last_success_timestamp_seconds"] = (words, int(time_of(backups[-1])))
        witness = read_witness(backups[-1])
        if witness is not None:
            words = "The revision of the newest verified backup."
            samples["revision"] = (words, witness.revision)
    # Prometheus' text format escapes a label's value as JSON does.
    label = f"{{store={json.dumps(str(Path(store).absolute()), ensure_ascii=False)}}}"
    lines = []
    for short, (words, value) in samples.items():
        metric = f"pexservice_backup_{short}"
        lines += [f"# HELP {metric} {words}", f"# TYPE {metric} gauge"]
        lines.append(f"{metric}{label} {value}")
    file = Path(name)
    beside = file.with_name(f".{file.name}.partial")
    try:
        beside.write_text("\n".join([*lines, ""]))
        beside.chmod(0o644)
        beside.replace(file)
    except OSError as error:
        raise VerbFailed(f"the metrics {name}: {error.strerror}") from error
