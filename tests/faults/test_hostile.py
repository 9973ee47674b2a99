"""Upstreams that misbehave in every way there is leave the server as it was, and no other host hears of it."""

import re
from collections.abc import Iterator

import pytest

from tests.faults.hostile import Siege, siege

GROWTH_MB = 64.0
ANSWER_MB = 64.0
"""The largest answer that is taken (`answer_bytes_max`): it is held once, and once more while it is written."""
WORST = re.compile(
    "redirect=|bomb=1024|huge_headers|huge_event|endless|old:(gzip|deep|cut_head|many|huge|continue|big)"
)
"""Those of which a slice is made: all that is large, or sends elsewhere."""


@pytest.fixture
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with siege(tmp_path_factory.mktemp("siege")) as besieged:
        yield besieged


def bears(one: Siege, models: list[str]) -> None:
    one.try_all(models)
    assert not one.wrong, "\n".join(one.wrong)
    one.settle()
    one.honest(50)
    one.settle()
    assert one.witness.came == 0, "a redirect was followed"
    assert one.live.process.poll() is None
    assert one.live.events("bug") == []
    grown, peak = one.live.rss_mb() - one.start_mb, one.live.rss_mb("VmHWM") - one.start_mb
    print(f"{one.calls} calls, {grown:+.0f} MiB in the end, {peak:+.0f} MiB at most, {one.most} requests upstream")
    assert grown <= GROWTH_MB
    assert peak <= GROWTH_MB + 2 * ANSWER_MB


def test_the_worst_faults_leave_nothing_behind(besieged: Siege) -> None:
    bears(besieged, [model for model in besieged.models if WORST.search(model) and "retry_after" not in model])


@pytest.mark.prove
def test_all_faults_in_a_row_leave_nothing_behind(besieged: Siege) -> None:
    bears(besieged, besieged.models)
