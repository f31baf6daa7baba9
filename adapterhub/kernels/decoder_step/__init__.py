"""A whole step of a Llama-like decoder in one compiled call, on CPUs with AVX-512 BF16."""
