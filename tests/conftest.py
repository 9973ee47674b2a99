"""What holds for every test: hypothesis judges results, never the speed of a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("headgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headgate")
