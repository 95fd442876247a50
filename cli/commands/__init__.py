"""The verbs of `vashsender`, one file per group. A verb imports heavy modules only when it runs."""
