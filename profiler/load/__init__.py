"""Load for OpenAI-compatible servers: prompts and a small client."""
