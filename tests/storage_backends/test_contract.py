"""Runs the contract suite on every target."""

from tests.storage_backends.contract import StoreContract
from tests.storage_backends.contract_presigned import PresignedContract


class TestStores(StoreContract):
    pass


class TestPresigned(PresignedContract):
    pass
