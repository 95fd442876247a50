"""Bounds on what a template may cost. A campaign's author is not trusted with the CPU and memory of a sender."""

MAX_SUBJECT_CHARACTERS = 2_000
MAX_BODY_CHARACTERS = 1_000_000
"""Characters in the source of the HTML, and of the text."""

MAX_VALUE_CHARACTERS = 10_000
"""Characters in a constant, in a recipient's value, and in the result of a filter."""

MAX_STEPS = 60_000
"""Tokens inside the braces of one part. There are no loops, so this also bounds the steps of rendering it."""

MAX_FILTERED_CHARACTERS = 1_000_000
"""Characters that all filters of one part may read for one message."""

MAX_DEPTH = 50
"""Expressions inside each other, and ifs inside each other."""

MAX_READING_SECONDS = 2.0
"""CPU seconds for reading the HTML of one template, in all combinations of its branches; usual are milliseconds."""

MAX_READING_STORED_SECONDS = 20.0
"""The same for content that was accepted before, perhaps by an older release or on a faster machine."""

MAX_MESSAGE_BYTES = 10_000_000
"""Bytes of a message on the wire, without its attachments (a setting)."""
