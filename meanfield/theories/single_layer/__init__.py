"""Class tasks, one hidden layer: codes and outliers at P -> infinity, the readout integral at finite P."""
