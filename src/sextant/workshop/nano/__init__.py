"""`sextant-nano`: the small demonstration model that ships with Sextant, and the recipe that makes it."""
