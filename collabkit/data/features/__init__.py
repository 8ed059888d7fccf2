"""Side information of users and items: `Features`, tensors that are row-aligned with a vocabulary.

`fields` has the kinds of columns, what is fitted and how values are encoded, `bags` many-valued ones with options;
`text` and `pictures` those of content, which `encoders` turn into numbers; `table` puts a side's fields together,
`context` those of rows.
"""

from collabkit.data.features.bags import Bag
from collabkit.data.features.context import Context
from collabkit.data.features.encoders import TrainedEncoder
from collabkit.data.features.fields import KINDS, Field, Kind
from collabkit.data.features.pictures import Picture
from collabkit.data.features.table import Features, SideFeatures
from collabkit.data.features.text import Text

KINDS |= {"bag": Bag(), "text": Text(), "image": Picture()}

__all__ = ["Features", "SideFeatures", "Context", "Field", "Kind", "KINDS", "Bag", "Text", "Picture", "TrainedEncoder"]
