"""From a registry URI to weights, tokenizer and base model, safely."""
