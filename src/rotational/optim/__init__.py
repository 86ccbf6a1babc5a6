"""Drop-in `torch.optim.Optimizer` classes that hold every neuron's rotation, and the naming of rules.

Nothing is imported here: `optim.recognise` serves reports, which run without torch.
"""
