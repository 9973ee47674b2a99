"""What holds for every test: hypothesis judges results, never the speed of a busy machine.

On a developer's machine it looks for new examples with every run; in CI the same commit gives the same result.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "headgate", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("headgate")
