"""The data plane: dialects of the OpenAI, DeepSeek and Anthropic APIs over one serving flow."""
