"""
The completions of shells, which agree with the parser.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.cli.verb import VERBS
from tests.support import completions
from tests.support.daemon import captured


@pytest.mark.parametrize("path", completions.FILES)
def test_completion_files_are_the_output_of_make_completions(path: Path) -> None:
    assert path.read_text() == completions.content(path)


def complete(path: Path, *words: str) -> list[str]:
    """
    Return what bash offers for the last of C{words}.
    """
    script = (
        f"source {completions.BASH}; source {completions.SERVICE_BASH};"
        ' COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' "_$1"; printf \'%s\\n\' "${COMPREPLY[@]}"'
    )
    ended = captured(["bash", "--norc", "-euc", script, "bash", *words], cwd=path)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split("\n")[:-1]


def test_bash_completes_verbs_then_options_then_paths(tmp_path: Path) -> None:
    """
    Bash offers the verbs first, and then the verb's options.

    Files and directories are offered where a path belongs.
    """
    (tmp_path / "store").mkdir()
    (tmp_path / "store.pem").touch()
    assert complete(tmp_path, "pexctl", "")[:-2] == list(VERBS)
    assert complete(tmp_path, "pexctl", "ne") == ["next"]
    assert complete(tmp_path, "pexctl", "next", "--k") == ["--key"]
    assert complete(tmp_path, "pexctl", "verify", "st") == ["store"]
    for words in (["pexctl", "next", "--ca-file"], ["pexservice", "--config"]):
        assert sorted(complete(tmp_path, *words, "st")) == ["store", "store.pem"]
    assert complete(tmp_path, "pexctl", "next", "--key", "") == [""]
    assert complete(tmp_path, "pexctl", "load", "--")[:2] == ["--help", "--json"]
    assert complete(tmp_path, "pexservice", "--trus") == ["--trusted-proxy"]


@pytest.mark.needs("zsh")
@pytest.mark.parametrize("file", [completions.ZSH, completions.SERVICE_ZSH])
def test_zsh_can_parse_its_completion_file(file: Path) -> None:
    assert captured(["zsh", "-n", str(file)]).returncode == 0
