"""Runs the contract suite on every target."""

from contract import StoreContract


class TestStores(StoreContract):
    pass
