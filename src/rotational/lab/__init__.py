"""The laboratory: what the library trains itself, and what comes of it.

declare     a run as a value          figures       what a figure of the paper shows and claims
models data tasks                     what a run trains, by name
train       the one loop              optimizers probes uneven resume ranks   its parts
store       results by content        measures reading statistics verdicts    numbers, intervals, claims
reproduce   runs what is missing      demo          four arms on one small GPT
"""
