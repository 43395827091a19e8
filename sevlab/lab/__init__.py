"""What a notebook needs in order to teach: predict, then look.

    from sevlab import lab
    lab.predict("Is the image a secret?", ["yes", "no"], reveal=lambda: "no: ...")
"""

from __future__ import annotations

from sevlab.lab.prediction import Prediction, predict
from sevlab.lab.show import hexdump, table

__all__ = ["Prediction", "hexdump", "predict", "table"]
