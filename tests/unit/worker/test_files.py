"""
The files that the options name.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.logger import capturedLogs, formatEvent

from pexservice.process.exit_status import CannotStart, Misconfigured
from pexservice.settings.options import Settings, WorkerSettings
from pexservice.worker.assembly import _open_access_log
from pexservice.worker.files import Files, read_files


def test_access_log_is_created_for_its_group(tmp_path: Path) -> None:
    before = os.umask(0o022)
    log = _open_access_log(WorkerSettings(access_log=str(tmp_path / "log"), supervisor=3))
    os.umask(before)
    assert log is not None
    log.close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(token_file="/nowhere/x"), "the token file /nowhere/x: No such"),  # noqa: S106 a file
        (
            Settings(tls_certificate="/nowhere/x", tls_key="/nowhere/y"),
            "the TLS file /nowhere/x: No such file",
        ),
        (
            Settings(tls_certificate=pytest.__file__, tls_key=pytest.__file__),
            f"the TLS file {pytest.__file__} has no certificate in PEM form",
        ),
        (
            Settings(tls_certificate="/dev/zero", tls_key="/dev/zero"),
            "the TLS file /dev/zero: larger than 1 MiB",
        ),
        (Settings(token_file="/dev/zero"), "the token file /dev/zero: larger than 1 MiB"),  # noqa: S106 a file
        (Settings(token_file=__file__), f"the token file {__file__}, line 1: a token"),
    ],
)
def test_unusable_file_is_a_misconfiguration_that_names_it(
    settings: Settings, message: str
) -> None:
    """
    A restart does not help.
    """
    with pytest.raises(Misconfigured, match=message):
        read_files(settings)


@pytest.mark.parametrize(
    ("days", "words"), [(15, None), (13, "expires on"), (-1, "expired on")]
)
def test_certificate_that_expires_soon_is_a_warning(days: int, words: str | None) -> None:
    files = Files(
        tokens=None, tls=None, certificate_expires=time.time() + (days + 0.5) * 24 * 3600
    )
    with capturedLogs() as events:
        files.warn_of_expiry()
    lines = [str(formatEvent(event)) for event in events]
    assert len(lines) == (words is not None)
    assert all((words or "") in line for line in lines)


def test_damaged_certificate_is_reported_in_plain_words(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    key.write_text("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")
    settings = Settings(tls_certificate=str(certificate), tls_key=str(key))
    with pytest.raises(Misconfigured, match=r": one of them is damaged$"):
        read_files(settings)
    key.write_bytes(certificate.read_bytes())
    with pytest.raises(Misconfigured, match="key has no private key in PEM form"):
        read_files(settings)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(token_file=__file__),
        Settings(tls_certificate=__file__, tls_key=__file__),
    ],
)
def test_lack_of_descriptors_is_no_misconfiguration(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A restart may help.
    """
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for name in ("pathlib.Path.open", "io.open", "os.open"):
        monkeypatch.setattr(name, Mock(side_effect=error))
    with pytest.raises(CannotStart, match="Too many open files") as raised:
        read_files(settings)
    assert not isinstance(raised.value, Misconfigured)
