"""From targets to an answer: each call makes its own trip."""

from headgate.core.reply import Reply
from headgate.pipeline.admission import Lease
from headgate.pipeline.meter import Story
from headgate.pipeline.trip import Trip
from headgate.pipeline.upstreams import Upstreams


class Dispatch:
    """The stage of the path."""

    def __init__(self, upstreams: Upstreams) -> None:
        self.upstreams = upstreams

    async def send(self, lease: Lease, reply: Reply, story: Story) -> None:
        """Fills `reply` from the first target that answers. Raises the last target's error where none does."""
        await Trip(self.upstreams, lease, reply, story).go()
