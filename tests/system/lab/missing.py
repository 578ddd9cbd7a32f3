"""What keeps a lab from starting on this machine."""


class LabMissing(Exception):
    """Say in one line what the lab needs and this machine doesn't have."""
