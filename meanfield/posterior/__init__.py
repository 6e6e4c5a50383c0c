"""What every theory answers: posteriors, their codes and outliers, kernels, neurons, certificates."""
