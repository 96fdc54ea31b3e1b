"""Fine-tuning: persons, three levels of text."""
