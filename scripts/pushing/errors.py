"""What went wrong, in one line."""


class PushError(Exception):
    """One line for the person who ran the command."""


class ReplicaGone(PushError):
    """A replica does not answer."""


class ReplicaBusy(PushError):
    """A replica does not come to the end of a load."""


class VolumeGone(PushError):
    """The agent on the volume does not answer."""
