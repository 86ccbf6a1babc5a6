"""The laboratory: what the library trains itself.

text       the corpus                gpt        the model
train      one run of one arm        summary    what its log says about rotation
demo       the four arms, their progress and their table
"""
