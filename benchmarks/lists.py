"""The lists of files that ``metadata`` times and ``query_plans`` explains."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from services import Services


def lists(services: Services, owner: str) -> dict[str, dict[str, Any]]:
    """Fields of a FileQuery by what they list; ``owner`` is one that ``python app.py seed-demo`` made."""
    with services.db.connection() as tx:
        largest, usual, parent = tx.execute(
            "select (select folder_id from folder_counters where owner_id = %(o)s and folder_id is not null"
            "        order by files desc limit 1),"
            " (select folder_id from folder_counters where owner_id = %(o)s and files between 40 and 200 limit 1),"
            " (select parent_id from folders where owner_id = %(o)s and parent_id is not null group by 1"
            "  order by count(*) desc limit 1)",
            {"o": owner},
        ).fetchone()
    now = datetime.now(UTC)
    return {
        "list, newest first": {},
        "list, oldest first": {"sort": "uploaded_at"},
        "list by name": {"sort": "original_name"},
        "list by name, descending": {"sort": "-original_name"},
        "list, largest first": {"sort": "-file_size"},
        "list by MIME type": {"sort": "mime_type"},
        "list by downloads": {"sort": "-download_count"},
        "list by last access": {"sort": "-last_accessed"},
        "list of images": {"file_type": "image"},
        "list of archives, smallest first": {"file_type": "archive", "sort": "file_size"},
        "list of images by MIME type": {"file_type": "image", "sort": "mime_type"},
        "list of PDFs": {"file_type": "application/pdf"},
        "list of `image/*`": {"file_type": "image/*"},
        "list of the root folder": {"folder": "root"},
        "list of the largest folder": {"folder": largest},
        "list of a usual folder": {"folder": usual},
        "list of the largest folder by name": {"folder": largest, "sort": "original_name"},
        "list of a folder and its subfolders": {"folder": parent, "recursive": True},
        "list of 9 days by name": {"date_from": now - timedelta(days=9), "date_to": now, "sort": "original_name"},
        "list of 30 days by name": {
            "date_from": now - timedelta(days=60),
            "date_to": now - timedelta(days=30),
            "sort": "original_name",
        },
        "list of a year, largest first": {
            "date_from": now - timedelta(days=900),
            "date_to": now - timedelta(days=535),
            "sort": "-file_size",
        },
        "list of files above 1 GB by name": {"min_size": 10**9, "sort": "original_name"},
        "list of a common tag": {"tag": "work"},
        "list of a rare tag by name": {"tag": "عائلة", "sort": "original_name"},
        "list of images with a tag, largest first": {"tag": "family", "file_type": "image", "sort": "-file_size"},
        "list of rejected files": {"status": "rejected"},
        "list of infected files by name": {"status": "infected", "sort": "original_name"},
        "list of files in processing": {"status": "processing"},
        "list of the trash": {"deleted": True},
    }
