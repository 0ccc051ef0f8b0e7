"""Profiles of Hypothesis: `pytest core/tests/flow --hypothesis-profile=long` runs 100 times as many schedules (1 h)."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("long", max_examples=100 * settings.default.max_examples)
