"""Side information of users and items: `Features`, tensors that are row-aligned with a vocabulary.

`fields` has the kinds of columns, what is fitted and how values are encoded; `table` puts a side's fields together,
`context` those of rows.
"""

from collabkit.data.features.context import Context
from collabkit.data.features.fields import KINDS, Field, Kind
from collabkit.data.features.table import Features, SideFeatures

__all__ = ["Features", "SideFeatures", "Context", "Field", "Kind", "KINDS"]
