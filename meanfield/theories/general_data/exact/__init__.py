"""The exact measure of a single neuron, sampled: how far an answer is from the theory, and the answer without approximation."""
