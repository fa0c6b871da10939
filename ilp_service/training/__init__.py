"""Fine-tuning, pre-training, and the record of how each sample fared while the model was trained."""
