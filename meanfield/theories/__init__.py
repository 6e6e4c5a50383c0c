"""One folder per theory; each answers for the problems it covers and refuses the others in words."""
