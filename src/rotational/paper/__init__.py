"""The paper, figure by figure, as declarations: what runs at each scale, what is drawn, what must hold.

    base                             the runs that figures vary: model, data, length at each scale
    computed                         what needs no training: the table of predictions, run time, the random walk (A.2)
    dynamics                         section 5.1: equilibrium
    control text                     section 5.1, J.2: rotational variants in place of weight decay, on images and text
    rates language                   section 5.2, J.3: lr against weight decay, and warm-up, on images and text
    adam                             section 5.3: Adam+L2, weight standardization
    appendix                         G, H: assumptions on real networks, weights whose scale matters
    imbalance sensitivity            J.6, J.7
    after                            what came after the paper
    figures                          all of them, in order
    asides                           runs beside them, which no claim asks for

Kosson, Messmer, Jaggi, "Rotational Equilibrium: How Weight Decay Balances Learning Across Neural Networks", ICML 2024,
arXiv 2305.17212. Settings at paper scale are the paper's own; those at the other scales, and all limits, are ours.
"""
