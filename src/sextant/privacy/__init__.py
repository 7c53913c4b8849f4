"""Personal data and secrets: found, replaced by tokens, put back. Pure: text in, spans or text out."""
