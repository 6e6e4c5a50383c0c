"""Numbers without theory: the compiler and its cache, linear algebra, tables of G and phi, least squares."""
