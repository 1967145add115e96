"""Schema of what judges say of AlpacaEval's outputs."""

import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import Table


class AlpacaEvalAnnotationTable(Table):
    """AlpacaEval's annotations, and the preference in the other order where it was asked for (see `alpaca_judge`).

    `generator_2` is the method. A second judge's rows follow the first one's. `unscored_reason` says why there is no
    `preference`: the model gave no output, or the judge's answer was refused, empty, filtered, cut or unreadable;
    `unscored_reason_swapped` the same of `preference_swapped`.
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
