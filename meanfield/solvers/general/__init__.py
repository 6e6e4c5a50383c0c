"""One hidden layer on any data: expectation propagation inside the convex dual (general_data.md)."""
