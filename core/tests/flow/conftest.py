"""`pytest core/tests/flow --hypothesis-profile=long` tries a hundred times as many schedules, for an hour."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("long", max_examples=100 * settings.default.max_examples)
