"""Samples of the weight posterior of finite networks: the witness against which the theory is held.

Nothing here uses the solvers of the theory; the network, its task and phi as a table are all that is shared.
"""
