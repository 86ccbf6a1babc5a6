"""The paper, figure by figure, as declarations: what runs at each scale, what is drawn, what must hold.

    base                             the runs that figures vary: model, data, length at each scale
    dynamics control text            section 5.1: equilibrium, and rotational variants in place of weight decay
    rates warmup                     section 5.2: lr against weight decay, and warm-up
    adam standardization             section 5.3: Adam+L2, weight standardization
    appendix                         A.2, G, H, J.6, J.7, the table of predictions, run time
    after                            what came after the paper
    figures                          all of them, in order
    asides                           runs beside them, which no claim asks for

Kosson, Messmer, Jaggi, "Rotational Equilibrium: How Weight Decay Balances Learning Across Neural Networks", ICML 2024,
arXiv 2305.17212. Settings at paper scale are the paper's own; those at the other scales, and all limits, are ours.
"""
