"""Moving over from other gateways: what they keep, as a plan of what to make here."""
