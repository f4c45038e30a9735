"""
Arguments that several verbs of C{pexctl} take.
"""

from __future__ import annotations

from argparse import ArgumentParser


def _directory(store: str) -> str:
    """
    Return a directory, which may be named as C{--store} names it.
    """
    return store.removeprefix("lmdb:")


def add_directory(parser: ArgumentParser, name: str, words: str) -> None:
    """
    Add the argument C{name}, the directory of a store.
    """
    parser.add_argument(name, metavar=name.upper(), type=_directory, help=words)
