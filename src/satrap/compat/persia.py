"""`import satrap.compat.persia` makes `persia` and `ts` satrap's in this process.

Importing it is the switch: the folder with the two packages becomes the first on `sys.path`, before any installed
packages of these names. Do it before the first `import persia`.
"""

import sys

from satrap.compat.shims_path import put_first

__all__: list[str] = []

put_first(sys.path)
