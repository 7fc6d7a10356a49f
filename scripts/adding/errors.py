"""What went wrong, a line for each fault."""

from __future__ import annotations


class AddError(Exception):
    """For the person who ran the command: something is missing or wrong, and nothing has changed."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class PlaceError(AddError):
    """It is right as it is given, and can't be written or tried."""
