"""The dress rehearsal: everything of the real run, at full size and with nothing fetched, and how long the real run will take.

    rows.py        what mini's rows are like, and synthetic files of such rows
    stand_ins.py   random weights in the real layouts, so that every loader reads what it will read
    probe.py       one pass on the clock: seconds, rows and memory of a step
    plan.py        hours and memory of the real run, from a probe's figures or from counted operations
    stages.py      every stage as a command of its own: train, kill, resume, speak
    report.py      what was found, for people and as JSON
"""
