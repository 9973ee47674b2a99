"""What the ledger says of a call."""

import json
from typing import Any

from tests.live import Live, until


def story_of(live: Live, call_id: str) -> dict[str, Any]:
    """`GET /v1/organization/calls/{id}`, once the call is there."""
    found: dict[str, Any] = {}

    def there() -> bool:
        status, body = live.get(f"/v1/organization/calls/{call_id}", live.key)
        found.update(json.loads(body) if status == 200 else {})
        return status == 200

    until(there)
    return found
