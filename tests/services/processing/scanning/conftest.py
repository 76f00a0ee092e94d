"""A real clamd for each test process, and checks of what files without a verdict refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.errors import FileNotReady
from core.principal import Principal
from db.records import FileRecord
from services import Services
from services.processing.previews import PreviewRequest
from settings import Settings
from tests.clamd import STREAM_LIMIT, Clamd, Proxy


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    scanner = Clamd(tmp_path_factory.mktemp("clamd"))
    scanner.start()
    yield scanner
    scanner.stop()


@pytest.fixture
def scanner(running: Clamd) -> Iterator[Clamd]:
    running.start()
    yield running
    running.forget()


@pytest.fixture
def proxy(scanner: Clamd) -> Iterator[Proxy]:
    between = Proxy(scanner.port)
    yield between
    between.close()


@pytest.fixture
def settings(settings: Settings, scanner: Clamd) -> Settings:
    return settings.model_copy(update={"clamd_url": scanner.url, "scan_max_size": STREAM_LIMIT})


def problem_of(file: FileRecord) -> str | None:
    return file.problem["code"] if file.problem else None


def refused_everywhere(services: Services, file: FileRecord) -> None:
    """Check that no route serves bytes or previews, and that the file cannot be copied."""
    not_handed_out(services, file)
    with pytest.raises(FileNotReady):
        services.files.copy(Principal(file.owner_id), file.id)


def not_handed_out(services: Services, file: FileRecord) -> None:
    who = Principal(file.owner_id)
    for attempt in (
        lambda: services.delivery.open(who, file.id, method="GET", mode="proxy"),
        lambda: services.delivery.open(who, file.id, method="GET", mode="redirect"),
        lambda: services.delivery.open(who, file.id, method="HEAD"),
        lambda: services.delivery.url(who, file.id),
        lambda: services.delivery.zip(who, ids=[str(file.id)]),
        lambda: services.previews.show(who, file.id, PreviewRequest("thumbnail", size=256)),
    ):
        with pytest.raises(FileNotReady):
            attempt()
