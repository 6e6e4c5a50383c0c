"""One hidden layer on any inputs: expectation propagation inside the convex dual."""
