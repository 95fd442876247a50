"""The verbs of `vashsender`, one file per group. Heavy imports wait until a verb runs."""
