"""The deployment document and the nouns that all layers exchange."""
