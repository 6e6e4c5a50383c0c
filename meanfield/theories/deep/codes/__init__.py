"""Codes of the neurons of a layer: words, their shares, and samples of them."""
