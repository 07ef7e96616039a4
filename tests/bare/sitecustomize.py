"""Python loads this at its start where this folder is on its path: modules that ``LACKING`` names are not there."""

import os
import sys
from importlib.machinery import PathFinder

HIDDEN = frozenset(os.environ.get("LACKING", "").split())


class Bare(PathFinder):
    """Finds all else."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Where a module is."""
        return None if fullname in HIDDEN else super().find_spec(fullname, path, target)


finds = [isinstance(each, type) and issubclass(each, PathFinder) for each in sys.meta_path]
sys.meta_path[finds.index(True)] = Bare
