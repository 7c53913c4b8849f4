"""Who may ask, how much, and what it cost: the one door `admit` / `settle`. Never sees HTTP."""
