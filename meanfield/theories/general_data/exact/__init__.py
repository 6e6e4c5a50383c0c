"""The exact measure of a single neuron, sampled: the error of an approximate solution, and its correction."""
