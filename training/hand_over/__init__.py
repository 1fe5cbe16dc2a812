"""From a finished run to a model folder for others: card, weights, GGUF, the Hub."""
