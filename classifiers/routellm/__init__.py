"""RouteLLM's routers: how likely is it that the strong model's answer to a prompt beats the weak one's?

Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data" (2024, arXiv 2406.18665v4), and the package
`routellm` 0.2.0, whose published checkpoints are read as they are and whose scores are met to 1e-5.
"""
