"""How much: limits of rate, tokens, concurrency, spend and funds, held from admission to the durable row."""
