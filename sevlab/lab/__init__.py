"""What a notebook needs in order to teach: predict, then look; try, then check.

    from sevlab import lab
    lab.predict("Is the image a secret?", ["yes", "no"], reveal=lambda: "no")
    case = lab.exercise("launch.digest")
    lab.check("launch.digest", answer)
"""

from __future__ import annotations

from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.breaking import breakable
from sevlab.lab.bus import blocks, bus, legible, page_of, search
from sevlab.lab.channel import unwrap
from sevlab.lab.foreign import ForeignVerdict, foreign_verdict, real_image_verdict
from sevlab.lab.ladders import ladder
from sevlab.lab.launches import before_launch, deliver, empty_guest, tampering, two_pages
from sevlab.lab.linked import link
from sevlab.lab.platforms import chain_steps, exported_chain, home_made_chain
from sevlab.lab.policy import policy_bits
from sevlab.lab.prediction import Answer, Prediction, predict
from sevlab.lab.reader import Result, check, exercise, progress, reader
from sevlab.lab.sequence import lanes
from sevlab.lab.sequence_schedules import schedules
from sevlab.lab.show import Text, flip, hexdump, layout, table, verdicts
from sevlab.lab.story import story
from sevlab.lab.tweak import Box, solve_tweaks
from sevlab.lab.views_keytree import keytree
from sevlab.lab.views_lens import lens
from sevlab.lab.views_machine import machine
from sevlab.lab.views_pagemap import pagemap
from sevlab.lab.views_timeline import timeline
from sevlab.lab.views_topology import topology

__all__ = [
    "Answer", "Box", "ForeignVerdict", "Prediction", "Refusal", "Result", "Text", "attempt", "before_launch", "blocks",
    "breakable", "bus", "chain_steps", "check", "deliver", "empty_guest", "exercise", "exported_chain", "flip", "foreign_verdict",
    "hexdump", "home_made_chain", "keytree", "ladder", "lanes", "layout", "legible", "lens", "link", "machine", "page_of",
    "pagemap", "policy_bits", "predict", "progress", "reader", "real_image_verdict", "schedules", "search",
    "solve_tweaks", "story", "table", "tampering", "timeline", "topology", "two_pages", "unwrap", "verdicts",
]  # fmt: skip
