"""The Hugging Face Hub: an endpoint of our own."""
