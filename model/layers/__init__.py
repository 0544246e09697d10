"""The layers of ConvBERT (Jiang et al. 2020, arXiv:2008.02496).

Axes, here and in the other modules: B batch, T tokens, H hidden size, N heads of each kind, D head
size, A = N·D, K kernel size, E embedding size, V vocabulary, P masked positions. Variables have the
shapes of the original release.
"""
