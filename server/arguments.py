"""The server's own command-line arguments."""

import math
import os
from dataclasses import dataclass, field


@dataclass
class ServerArguments:
    """What only the server has."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 is all of this computer's"})
    port: int = field(default=8000, metadata={"help": "port to listen at; 0 to 65535, 0 picks a free one"})
    api_key: str = field(
        default="", metadata={"help": "key that clients must send as `Authorization: Bearer`; also CHATGLM_API_KEY"}
    )
    allow_origin: str = field(
        default="", metadata={"help": "origins, by commas, whose pages may call the server (CORS); * is all"}
    )
    max_batch_size: int = field(default=32, metadata={"help": "answers that are generated together; 1 and up"})
    max_queue: int = field(default=256, metadata={"help": "requests that may wait besides; 0 and up"})
    queue_timeout: float = field(default=120.0, metadata={"help": "seconds that a request may wait for its turn"})
    request_timeout: float = field(default=600.0, metadata={"help": "seconds that a request may take altogether"})
    drain_seconds: float = field(default=30.0, metadata={"help": "seconds that answers may run on after SIGTERM"})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "largest request body, in bytes"})
    prompt_cache_mb: int = field(default=256, metadata={"help": "memory for prompts that are asked again, in MiB"})
    served_model_name: str = field(default="chatglm-6b", metadata={"help": "name in /v1/models"})
    strict_model_names: bool = field(default=False, metadata={"help": "refuse requests for other model names"})
    log_conversations: bool = field(default=False, metadata={"help": "write prompts and answers to the log"})
    glm_bot: bool = field(default=False, metadata={"help": "also serve glm-bot's routes: /chat, /clear, /chatglm"})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("queue_timeout", "request_timeout", "drain_seconds", "prompt_cache_mb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, least in (("max_batch_size", 1), ("max_queue", 0), ("max_body_bytes", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.api_key = self.api_key or os.environ.get("CHATGLM_API_KEY", "")
