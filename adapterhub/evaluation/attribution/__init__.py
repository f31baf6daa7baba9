"""Why an adapter gave an answer: what each word of the text did for it, by attribution."""
