"""Fine-tuning of ChatGLM-6B: P-Tuning v2, LoRA, all parameters; and how good the result is."""
