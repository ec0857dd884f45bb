"""How hard hypothesis tries: HYPOTHESIS_PROFILE=thorough for a long night, `usual` in `make test`."""

import os

from hypothesis import HealthCheck, settings

_slow_to_draw = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("usual", max_examples=150, deadline=None, suppress_health_check=_slow_to_draw)
settings.register_profile("thorough", max_examples=10_000, deadline=None, suppress_health_check=_slow_to_draw)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))
