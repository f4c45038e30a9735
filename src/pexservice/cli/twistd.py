"""
The command lines of C{twistd pexservice} and C{twistd pexservice-worker}.

A start that cannot succeed prints one line and ends: for example, an option is wrong, or
another service runs in the same directory.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

import attrs
from twisted.application.service import IService
from twisted.python import usage

from pexservice.cli.help import grouped
from pexservice.cli.log import LOG
from pexservice.cli.output import VerbFailed, discard_output
from pexservice.core.text import without_password
from pexservice.process.accepted_losses import LOSSES
from pexservice.process.children import killed_with_parent, retry_while_busy
from pexservice.process.exit_status import CannotStart, Misconfigured, Status
from pexservice.process.listening import (
    AddressInUse,
    addresses_in_use,
    check_addresses,
)
from pexservice.process.log_lines import LogLines, error_line
from pexservice.process.sd_notify import Notifier
from pexservice.process.signals import START_SIGNALS
from pexservice.process.timing import the_reactor
from pexservice.settings.config_file import read_config
from pexservice.settings.option import (
    Option,
    command_line,
    did_you_mean,
    options_of,
)
from pexservice.settings.options import Settings, Source, Supervision, WorkerSettings
from pexservice.stores.errors import StoreBusy, StoreError
from pexservice.stores.registry import store_factory
from pexservice.supervisor.worker_setup import WorkerSetup

T = TypeVar("T", bound=attrs.AttrsInstance)

#: The declarations of the options that the configuration file may have.  C{config} is not
#: one of these options, because a configuration file must not name another one.
FILE_TABLES = (Settings, Supervision)

#: In other programs, the option for the address has one of these names.
_OTHER_NAMES = dict.fromkeys(
    ("address", "bind", "host", "interface", "port", "p"),
    " (did you mean --listen tcp:PORT:interface=ADDRESS?)",
)

#: Settings that only a restart changes.  At a reload, the sockets stay open, and the store
#: and the log stay the same for all workers.
RESTART_ONLY = ("listen", "store", "log_format")


def _option_method(option: Option) -> Callable[..., None]:
    """
    Return the method that Twisted calls when C{option} is on the command line.
    """

    def set_value(self: CommonOptions, text: str) -> None:
        try:
            value = option.parse(text)
        except ValueError as error:
            message = without_password(f"--{option.name} {text}: {error}")
            raise usage.UsageError(message) from error
        if option.repeatable:
            value = (*self.on_command_line.get(option.name, ()), value)
        self.on_command_line[option.name] = value

    def set_flag(self: CommonOptions) -> None:
        self.on_command_line[option.name] = True

    return set_flag if option.is_flag else set_value


class CommonOptions(usage.Options):
    """
    The options of a command, which classes of L{pexservice.settings.options} declare.

    @cvar process: the name of this process in the log.
    @cvar longdesc: the description in C{--help}.
    @cvar tables: the classes that declare the options.
    @ivar on_command_line: the values on the command line, by the names of their options.
    @ivar given: the values on the command line and in the configuration file; set by
        L{read_settings}.
    """

    command: ClassVar[str]
    process: ClassVar[str]
    longdesc: ClassVar[str]
    tables: ClassVar[tuple[type[attrs.AttrsInstance], ...]]

    def __init_subclass__(cls) -> None:
        """
        Add a method for each option: Twisted finds the options by these methods.
        """
        for option in cls.declared():
            setattr(cls, f"opt_{option.name.replace('-', '_')}", _option_method(option))

    @classmethod
    def declared(cls) -> list[Option]:
        return list(options_of(*cls.tables))

    def __init__(self) -> None:
        super().__init__()
        self.on_command_line: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    @property
    def foreground(self) -> bool:
        """
        Return whether this process stays in the foreground: twistd does not fork.
        """
        parent: Mapping[str, object] = self.parent or {}
        return bool(parent.get("nodaemon", True))

    def opt_version(self) -> NoReturn:
        """Display the version and exit."""
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        sys.stdout.write(f"pexservice {version('pexservice')}\n")
        sys.exit(0)

    def opt_help(self) -> NoReturn:
        """Display this help and exit."""
        try:
            sys.stdout.write(f"{self}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The program that reads the help, such as head, has ended.
            discard_output(sys.stdout)
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        return grouped(self.longdesc, self.declared())

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.  If it is wrong, print one line and end the process.

        Twisted would print its whole help before this line.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            reason = f"{self.clearer(str(error))}; see twistd {self.command} --help"
            self.end_start(reason, Status.MISCONFIGURED)

    def end_start(self, reason: str, status: Status) -> NoReturn:
        """
        Print one line, tell systemd the reason, and end the process.

        Call this method before twistd forks, because a daemon has no standard error.
        """
        sys.stderr.write(error_line(f"{self.command}: {reason}"))
        Notifier.to_service_manager().notify(f"STATUS={reason}")
        # If a daemon cannot start, twistd's exit status is the same for all errors.
        raise SystemExit(status if self.foreground else Status.CANNOT_START)

    def clearer(self, message: str) -> str:
        """
        Return a clearer message than Twisted's C{message}, or C{message} itself.
        """
        match = re.fullmatch(
            r"option (--?)(\S+) (not recognized|requires argument)", message
        )
        if match is None:
            return message
        dashes, name, mistake = match.groups()
        values = {option.name: option.metavar for option in self.declared()}
        if mistake == "requires argument":
            return f"--{name} requires a value: --{name} {values.get(name, 'VALUE')}"
        hint = _OTHER_NAMES.get(name) or did_you_mean(name, list(values), "--{}")
        return f"there is no option {dashes}{name}{hint}"

    def postOptions(self) -> None:
        try:
            settings = self.read_settings()
        except ValueError as error:
            raise usage.UsageError(str(error)) from error
        if self.parent is not None:
            as_json, piped = settings.log_format == "json", "supervisor" in self.given
            make_lines = partial(LogLines, self.process, as_json, piped=piped)
            LOG.choose(self.parent, make_lines, self.end_start)

    def read_settings(self) -> Settings:
        """
        Read the configuration file, and return the settings.

        Values on the command line replace those of the file.

        @raise ValueError: the file is wrong, or the options contradict each other.  The
            message is one line that says what is wrong.
        """
        path = self.on_command_line.get("config")
        in_file = {} if path is None else read_config(path, options_of(*FILE_TABLES))
        self.given = {**in_file, **self.on_command_line}
        return self.settings()

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]}: use options only")

    def values_of(self, table: type[T], **others: object) -> T:
        """
        Return an instance of C{table} with the values in L{given}.

        @param others: the attributes that are no options.
        """
        values = {
            option.attribute: self.given[option.name]
            for option in options_of(table)
            if option.name in self.given
        }
        return table(**values, **others)

    def settings(self) -> Settings:
        return self.values_of(Settings, foreground=self.foreground)


class WorkerOptions(CommonOptions):
    command: ClassVar[str] = "pexservice-worker"
    process: ClassVar[str] = "worker"
    longdesc = (
        "One worker, for a machine with another supervisor. It ends when it cannot"
        " continue."
    )
    tables = (Source, WorkerSettings)

    def settings(self) -> WorkerSettings:
        return self.values_of(WorkerSettings, foreground=self.foreground)


class ServiceOptions(CommonOptions):
    command: ClassVar[str] = "pexservice"
    process: ClassVar[str] = "supervisor"
    longdesc = "A durable cursor over the Fibonacci sequence, over HTTP."
    tables = (Source, *FILE_TABLES)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line, and check whether the start can succeed.

        From now on, signals end or reload the service.
        """
        if self.parent is not None:
            START_SIGNALS.install()
        super().parseOptions(options)
        if self.parent is not None:
            self._check_start(self.parent)

    def read_settings(self) -> Settings:
        """
        Read the settings as every command does, and check what only a supervisor needs.
        """
        settings = super().read_settings()
        for address in settings.listen:
            if address.startswith("fd:"):
                raise ValueError(
                    f"--listen {address}: only a worker accepts an inherited descriptor"
                )
            # Port 0 may be listed twice: each time, it stands for another free port.
            if settings.listen.count(address) > 1 and address.split(":")[1] != "0":
                raise ValueError(f"--listen {address}: the address is listed twice")
        self.supervision()
        return settings

    def _check_start(self, twistd: Mapping[str, Any]) -> None:
        """
        End a start that cannot succeed.

        A daemon has no standard error and no exit status after its fork, so this method
        checks addresses and store before the fork.  In the foreground, the supervisor
        itself reports an address or a store that it cannot use.

        @param twistd: twistd's options.
        """
        settings = self.settings()
        try:
            # The log belongs to the service that runs here, so this reason is not logged.
            refuse_second_start(twistd.get("pidfile"))
        except CannotStart as error:
            self.end_start(str(error), error.exit_status)
        if self.foreground:
            return
        try:
            # Workers of a supervisor that was killed may still have the addresses.
            retry_while_busy(
                partial(check_addresses, the_reactor(), settings.listen),
                AddressInUse,
                START_SIGNALS.sleep,
            )
            retry_while_busy(settings.check_store, StoreBusy, START_SIGNALS.sleep)
        except (CannotStart, StoreError) as error:
            if START_SIGNALS.terminated:
                raise SystemExit(0) from None
            LOG.write(str(error))
            self.end_start(str(error), error.exit_status)

    def supervision(self) -> Supervision:
        supervision = self.values_of(Supervision)
        if not store_factory(self.settings().store).shared:
            return supervision
        if self.given.get("standby"):
            raise ValueError(
                "--standby 1: with a store of many nodes every node is active, and there is"
                " no lock to wait for; start another node instead"
            )
        return attrs.evolve(supervision, standby=0)


def service_options(arguments: list[str]) -> ServiceOptions:
    """
    Parse C{arguments} as the options of a service.

    @raise VerbFailed: an option is wrong.
    """
    options = ServiceOptions()
    try:
        # If an option is wrong, ServiceOptions.parseOptions would end the process.
        usage.Options.parseOptions(options, arguments)
    except usage.UsageError as error:
        raise VerbFailed(options.clearer(str(error)), "misconfigured") from error
    return options


def refuse_second_start(pid_file: str | None) -> None:
    """
    Check that the process that C{pid_file} names has ended, and remove this file.

    @raise CannotStart: the process runs, or the file cannot be written.
    """
    if not pid_file:
        return
    path = Path(pid_file).absolute()
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CannotStart(
            f"the pid file {path} cannot be written: {path.parent} does not exist or is not"
            " writable; name another file with --pidfile"
        )
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        # There is no file, or it contains no number.  In the second case, twistd reports an
        # error that names the file.
        return
    command = b""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    if not command:
        # The process has ended.  Its command is empty until its parent reads its status,
        # and does not exist afterwards.
        with suppress(OSError):
            path.unlink()
        return
    arguments = command.decode(errors="replace").split("\0")
    raise CannotStart(
        f"process {pid} runs here already ({' '.join(arguments).strip()}), by {path};"
        f" stop it with kill {pid}, remove {path} if that is another program, or start"
        " another service in another directory, with another --listen"
    )


class RunningOptions:
    """
    The options of a running service, which a reload reads again.
    """

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self._at_start = options.settings()

    def setup(self) -> WorkerSetup:
        """
        Return how to start workers with the options that were read last.

        The L{RESTART_ONLY} settings keep the values from the start of the service.
        """
        settings, supervision = self._options.settings(), self._options.supervision()
        kept = {name: getattr(self._at_start, name) for name in RESTART_ONLY}
        pending = tuple(
            f"--{option.name}"
            for option in options_of(Settings)
            if option.attribute in RESTART_ONLY
            and kept[option.attribute] != getattr(settings, option.attribute)
        )
        return WorkerSetup(
            command=worker_command(attrs.evolve(settings, **kept)),
            watchdog=supervision.watchdog,
            standby_count=supervision.standby,
            restart_pending=pending,
            settings=settings,
        )

    def reread(self, present: WorkerSetup, accepted: Sequence[str]) -> WorkerSetup:
        """
        Read the configuration file again, and return the new setup.

        @param accepted: the options whose loss the operator accepts; see
            L{pexservice.process.accepted_losses}.
        @raise Misconfigured: the file cannot be read; an option is wrong; or tokens, TLS or
            history would be lost, and the operator has not accepted this loss.
        @raise CannotStart: C{listen} has changed, and a restart could not listen there.
        @raise StoreError: C{store} has changed, and a restart could not open that store.
        """
        try:
            settings = self._options.read_settings()
        except ValueError as error:
            raise Misconfigured(str(error)) from error
        _refuse_losses(present.settings, settings, accepted)
        if settings.store != self._at_start.store:
            settings.check_store()
        new_addresses = [
            text for text in settings.listen if text not in self._at_start.listen
        ]
        addresses_in_use(the_reactor(), new_addresses)
        return self.setup()


def _refuse_losses(before: Settings, after: Settings, accepted: Sequence[str]) -> None:
    for option in options_of(Settings):
        old, new = getattr(before, option.attribute), getattr(after, option.attribute)
        lost = new is None or (isinstance(old, int) and new < old)
        guarded = option.name in LOSSES and option.name not in accepted
        if guarded and old is not None and lost:
            now = "is no longer set" if new is None else f"is {new} instead of {old}"
            raise Misconfigured(
                f"{option.name} {now}, so {LOSSES[option.name]}; if this is"
                f" intended, use pexctl reload --accept {option.name}, or restart"
            )


def worker_command(settings: Settings) -> list[str]:
    """
    Return the command that starts a worker, without the options for its descriptors.

    If uvloop is installed, the worker runs on it.
    """
    return [
        *killed_with_parent(),
        *(sys.executable, "-m", "pexservice"),
        *(("--reactor=uvloop",) if find_spec("uvloop") else ()),
        *("--nodaemon", "--pidfile="),
        "pexservice-worker",
        # The command has no addresses, because the worker inherits the sockets.
        *command_line(attrs.evolve(settings, listen=())),
    ]


class ServicePlugin:
    """
    The object in which C{twistd} finds the options and the maker of the supervisor.
    """

    Options = ServiceOptions

    @staticmethod
    def makeService(options: ServiceOptions) -> IService:
        """
        Return a supervisor, and open nothing, because twistd may fork afterwards.
        """
        from pexservice.supervisor.service import Supervisor  # noqa: PLC0415 not needed by --help

        running = RunningOptions(options)
        return Supervisor(the_reactor(), running.setup(), running.reread)


class WorkerPlugin:
    """
    The object in which C{twistd} finds the options and the maker of a worker.
    """

    Options = WorkerOptions

    @staticmethod
    def makeService(options: WorkerOptions) -> IService:
        """
        Return a worker, and open nothing, because twistd may fork afterwards.
        """
        # The supervisor loads this module too, and does not need the modules of a worker.
        from pexservice.server.reactor import worker_reactor  # noqa: PLC0415 for a worker alone

        # This call comes first, because the next import installs Twisted's default reactor
        # if no other reactor was chosen.
        reactor = worker_reactor()
        from pexservice.worker.service import Worker  # noqa: PLC0415 for a worker alone

        return Worker(options.settings(), reactor)
