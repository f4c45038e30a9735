"""
A store on etcd, put together from what the command line says.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from pexservice.stores.etcd.address import Address, parse
from pexservice.stores.etcd.opening import check_version
from pexservice.stores.interface import StoreUnusable

try:
    from pexservice.stores.etcd.gateway import Gateway, Refused, Unanswered
    from pexservice.stores.etcd.store import EtcdStore
except ImportError as error:
    raise StoreUnusable(
        f"--store etcd: takes treq, as pip install pexservice[etcd] has it: {error}"
    ) from error


def etcd_store(url: str, reactor: IReactorTime, *, journal: int) -> EtcdStore:
    """
    @param url: as L{parse} takes it.
    @param journal: how many transitions the history keeps.
    @raise StoreUnusable: a file that it names cannot be used.
    """
    address = parse(url)
    if address.password_file is not None:
        try:
            address.password()
        except OSError as error:
            raise StoreUnusable(f"{address.password_file}: {error.strerror}") from error
    gateway = Gateway(address, reactor)
    return EtcdStore(
        gateway,
        address.prefix,
        name=str(address),
        journal=journal,
        stream=gateway.stream,
        prepare=lambda: _look_who_answers(gateway, address),
        close=gateway.close,
    )


async def _look_who_answers(gateway: Gateway, address: Address) -> None:
    """
    @raise StoreUnusable: nobody, or somebody else, or one that is too old.
    """
    problems: list[Exception] = []
    for endpoint in address.endpoints:
        try:
            answer = await gateway.version(endpoint)
        except (Refused, Unanswered) as error:
            problems.append(error)
        else:
            check_version(endpoint, answer)
    if len(problems) == len(address.endpoints):
        raise StoreUnusable(f"no etcd answers: {'; '.join(map(str, problems))}")
