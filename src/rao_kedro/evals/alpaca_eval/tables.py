"""Schema of AlpacaEval's annotations."""

import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import Table


class AlpacaEvalAnnotationTable(Table):
    """One row per instruction, method and judge: which output the judge prefers.

    `generator_2` is the method. Rows of a second judge follow those of the first one. `preference` is 1 for the
    baseline's output and 2 for the method's; `preference_swapped` is the same for the pair in the other order, where it
    was judged. `unscored_reason` says why there is no `preference`: the model gave no output, or the judgment was
    refused, empty, filtered, cut or unreadable. `unscored_reason_swapped` does the same for `preference_swapped`.
    """

    index: Series[int] = pa.Field(ge=0)
    instruction: Series[str]
    output_1: Series[str]
    generator_1: Series[str]
    output_2: Series[str]
    generator_2: Series[str]
    annotator: Series[str]
    preference: Series[float] = pa.Field(nullable=True, ge=1, le=2)
    preference_swapped: Series[float] = pa.Field(nullable=True, ge=1, le=2)
    is_switched_outputs: Series[bool]
    unscored_reason: Series[str]
    unscored_reason_swapped: Series[str]
