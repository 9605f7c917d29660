"""Other tools' vector files, a module for each kind: bytes to numbers and back. No torch.

A format of your own is a `Format` (docs/extending.md).
"""

from __future__ import annotations

from steer.formats.imported import ImportedVector as ImportedVector
from steer.formats.imported import checked_directions as checked_directions
from steer.formats.imported import layer_number as layer_number
from steer.formats.registry import FileContents as FileContents
from steer.formats.registry import Format as Format
from steer.formats.registry import Writer as Writer

#: The former name.
Imported = ImportedVector
