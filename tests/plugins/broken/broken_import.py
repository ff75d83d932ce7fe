"""Needs a package that nobody has."""

import package_that_nobody_has


class Plugin:
    def execute(self):
        return package_that_nobody_has
