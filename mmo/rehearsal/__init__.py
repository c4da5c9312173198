"""The dress rehearsal: everything of the real run, at full size and with nothing fetched, and how long the real run will take.

    rows.py        what mini's rows are like, and synthetic files of such rows
    stand_ins.py   random weights in the real layouts, so that every loader reads what it will read
    stages.py      every stage as a command of its own: train, kill, resume, answer
    judges.py      drawn judges of full size, and `mmo evaluate` with them
    notebooks.py   notebooks 10 to 13 through papermill; what is finished is kept
    speak.py       an answer aloud of a model that would rather stop
    plan.py        hours and memory of the real run, from a rehearsal's figures or from counted operations
    report.py      all of it, and what was found
"""
