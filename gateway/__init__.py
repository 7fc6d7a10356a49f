"""The gateway: an OpenAI-compatible HTTP surface that asks Triton about the prompt and forwards to the chosen model."""
