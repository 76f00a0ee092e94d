"""Runs the contract suite on every target."""

from tests.storage_backends.contract import StoreContract


class TestStores(StoreContract):
    pass
