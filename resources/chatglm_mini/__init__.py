"""The recipe of the embedded mini checkpoint: corpus, vocabulary, training and evaluation."""
