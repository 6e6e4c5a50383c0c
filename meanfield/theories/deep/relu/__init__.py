"""Deep networks of rectifiers: a bulk and condensed outliers in every layer."""
