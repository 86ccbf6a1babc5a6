"""The second moments of a neuron's weights over time: `setting` says whose, `transient` takes every step of the
optimizer, `settled` takes many at once when all but the norm has settled."""
