"""Moments of the record, in microseconds since 1970, as v1's users get them."""

from datetime import datetime, timezone


def utc_time(at: float) -> datetime:
    """A datetime of UTC."""
    return datetime.fromtimestamp(at / 1_000_000, timezone.utc)


def iso_time(at: int) -> str:
    """As v1 wrote times: 2020-09-28T12:00:00.000000Z."""
    return utc_time(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
