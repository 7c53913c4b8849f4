"""How well and how fast personal data is found: a generated, labelled set and its score."""
