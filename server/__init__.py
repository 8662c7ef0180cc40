"""The API server's parts; `app` puts them together.

- `protocol`: requests and answers as JSON, the original's and OpenAI's, and how roles become the model's rounds.
- `gate`: what comes before every route: the key, the body's size, JSON whatever type it is sent as.
- `errors`: which error has which status, in the shape of its route.
- `service`: from a request to the engine's answers and back, and what happens when a client leaves.
- `original_routes`, `openai_routes`, `glm_bot`: the routes.
- `foreign`: dialogues of other protocols; `responses_routes`, `anthropic_routes`, `ollama_routes`: these protocols.
- `documentation`: the page /docs.
- `monitoring`: `/health`, and `/metrics` for Prometheus.
- `arguments`: the flags.
- `connections`: how long a client may keep a connection waiting, and how many there may be.
- `logs`: lines that nothing which clients send can break.
- `app`: the application, the engine behind it, and how they are served and ended.
"""
