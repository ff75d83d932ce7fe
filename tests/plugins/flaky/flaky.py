"""Raises in its first `times` attempts, then says which attempt it was."""

from grange_worker.scope import CURRENT


class Flaky:
    def execute(self, times=0):
        attempt = CURRENT.get().attempt
        if attempt <= times:
            raise ValueError(f"attempt {attempt} is no good")
        return attempt
